import { openai } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";

console.log("answer:", (await generateText({ model: openai("gpt-5"), prompt: "hi" })).text);
let streamed = "";
for await (const part of streamText({ model: openai("gpt-5"), prompt: "hi" }).textStream) streamed += part;
console.log("stream:", streamed);
