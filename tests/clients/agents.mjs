// Traces go to api.openai.com, with OPENAI_API_KEY, which is the gate's token.
// With an argument, they are switched off.
import { Agent, run, setTracingDisabled, getGlobalTraceProvider } from "@openai/agents";

const original = globalThis.fetch;
let traces = 0;
globalThis.fetch = async (url, options) => {
  if (!String(url).startsWith("https://api.openai.com/")) return original(url, options);
  if (JSON.stringify(options.headers).includes(process.env.OPENAI_API_KEY)) traces++;
  return new Response("{}");
};

if (process.argv[2] === "off") setTracingDisabled(true);
const result = await run(new Agent({ name: "agent", instructions: "", model: "gpt-5" }), "hi");
console.log("answer:", result.finalOutput);
await getGlobalTraceProvider().forceFlush();
console.log("traces with the token:", traces);
