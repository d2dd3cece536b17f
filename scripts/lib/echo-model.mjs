// A model provider that repeats what it is told, in the shape of the OpenAI chat completions API.
// Usage: node echo-model.mjs HOST PORT
import { createServer } from "node:http";

const [host, port] = process.argv.slice(2);
const BODY_BYTES_MAX = 4 * 1024 * 1024;

// What the person said last. OpenClaw adds messages and lines of context of its own.
function lastSaid(messages) {
  const texts = messages.filter((message) => message.role === "user").map(({ content }) => {
    const text = typeof content === "string" ? content : content.map((part) => part.text ?? "").join("\n");
    return text.replace(/<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>[^]*?<<<END_OPENCLAW_INTERNAL_CONTEXT>>>/g, "").trim();
  });
  return (texts.filter(Boolean).at(-1) ?? "").split("\n")[0];
}

createServer((request, response) => {
  let body = "";
  request.on("data", (chunk) => {
    body += chunk;
    if (body.length > BODY_BYTES_MAX) request.destroy();
  });
  request.on("end", () => {
    if (!request.url.endsWith("/chat/completions")) {
      response.writeHead(404).end();
      return;
    }
    const { messages = [], model = "echo-1", stream } = JSON.parse(body);
    const content = `echo: ${lastSaid(messages)}`;
    const common = { id: "echo", created: 0, model };
    const usage = { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 };
    if (!stream) {
      const choice = { index: 0, finish_reason: "stop", message: { role: "assistant", content } };
      response.writeHead(200, { "content-type": "application/json" });
      response.end(JSON.stringify({ ...common, object: "chat.completion", choices: [choice], usage }));
      return;
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    const chunk = (delta, finish_reason) => {
      const choices = [{ index: 0, delta, finish_reason }];
      const data = { ...common, object: "chat.completion.chunk", choices };
      response.write(`data: ${JSON.stringify(data)}\n\n`);
    };
    chunk({ role: "assistant", content }, null);
    chunk({}, "stop");
    response.write(`data: ${JSON.stringify({ ...common, object: "chat.completion.chunk", choices: [], usage })}\n\n`);
    response.end("data: [DONE]\n\n");
  });
}).listen(Number(port), host);
