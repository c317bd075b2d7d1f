import OpenAI from "openai";

let asked = 0;
const client = new OpenAI({ maxRetries: 5, fetch: (...of) => { asked++; return fetch(...of); } });
const question = { model: "gpt-5", input: "hi", store: false };
for (const [name, ask] of Object.entries({
  model: () => client.responses.create({ ...question, model: "gpt-5-pro" }),
  store: () => client.responses.create({ ...question, store: true }),
  ceiling: () => client.responses.create({ ...question, max_output_tokens: 501 }),
  compressed: () => client.responses.create(question, { headers: { "Content-Encoding": "gzip" } }),
  chat: () => client.chat.completions.create({ model: "gpt-5", messages: [{ role: "user", content: "hi" }] }),
  stored: () => client.responses.retrieve("resp_1"),
  allowed: () => client.responses.create(question),
})) {
  asked = 0;
  const became = await ask().then((response) => response.output_text, (error) => `${error.status} ${error.code}`);
  console.log(`${name}: ${became}, asked ${asked} times.`);
}
