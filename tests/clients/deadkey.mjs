import OpenAI from "openai";

const client = new OpenAI();
try {
  await client.responses.create({ model: "gpt-5", input: "hi", stream: process.argv[2] === "stream" });
  console.log("it succeeds");
} catch (error) {
  console.log("dead key:", error.status, error.code, error.message);
}
