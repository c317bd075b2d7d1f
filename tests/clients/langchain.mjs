import { ChatOpenAI } from "@langchain/openai";

const model = new ChatOpenAI({ model: "gpt-5", useResponsesApi: true });
console.log("answer:", (await model.invoke("hi")).text);
try {
  await new ChatOpenAI({ model: "gpt-4.1", maxRetries: 0 }).invoke("hi"); // chat completions
} catch (error) {
  console.log("chat completions:", error.status, error.message);
}
