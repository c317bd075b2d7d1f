import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 5 });
console.log("first:", (await client.responses.create({ model: "gpt-5", input: "hi" })).output_text);
try {
  await client.responses.create({ model: "gpt-5", input: "hi" });
} catch (error) {
  console.log("second:", error.status, error.code, error.type, error.headers.get("retry-after"), error.message);
}
