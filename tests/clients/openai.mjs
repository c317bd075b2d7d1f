import OpenAI from "openai";

const client = new OpenAI();
const response = await client.responses.create({ model: "gpt-5", input: "hi" });
console.log("answer:", response.output_text);
let streamed = "";
for await (const event of await client.responses.create({ model: "gpt-5", input: "hi", stream: true })) {
  if (event.type === "response.output_text.delta") streamed += event.delta;
}
console.log("stream:", streamed);
try {
  await client.chat.completions.create({ model: "gpt-5", messages: [{ role: "user", content: "hi" }] });
} catch (error) {
  console.log("chat completions:", error.status, error.message);
}
