// The caller's outcomes as they happen, by server-sent events or a WebSocket.
// Both yield {type, id, position}: "ready", "resync", or an operation's end.
import { SendError } from "./errors.js";

/** Server-sent events by fetch and not EventSource, which cannot send credentials in a header and is missing in Node. */
export async function* serverSent(exchange, { after, silence, signal }) {
  const headers = { Accept: "text/event-stream" };
  if (after !== undefined) headers["Last-Event-ID"] = after;
  const opened = await exchange.open("GET", "/operations/events", { headers, signal, patience: silence });
  const { response, control, end, failed, onTime } = opened;
  onTime();
  let timer;
  // The gateway says that it is alive every 15 s: a silent connection is a dead one.
  const listen = () => {
    clearTimeout(timer);
    timer = setTimeout(() => control.abort(), silence);
  };
  try {
    if (!response.ok || !/^text\/event-stream\b/.test(response.headers.get("Content-Type") ?? "")) {
      const kind = response.status === 401 ? "unauthorized" : response.status >= 500 || response.status === 429 ? "server" : "invalid";
      throw new SendError(kind, `the stream of outcomes was answered with ${response.status}`, { status: response.status });
    }
    listen();
    const parse = parser();
    const text = new TextDecoder();
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      listen();
      for (const event of parse(text.decode(part.value, { stream: true }))) yield event;
    }
  } catch (err) {
    throw failed(err);
  } finally {
    clearTimeout(timer);
    end();
    control.abort();
  }
}

/** Returns a function that takes text as it comes and returns the events that are complete. */
export function parser() {
  let rest = "";
  let event = { data: "" };
  let position;
  return (text) => {
    const complete = [];
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.type) complete.push({ type: event.type, position, id: operation(event.data) });
        event = { data: "" };
        continue;
      }
      const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") event.type = value;
      else if (field === "id" && !value.includes("\0")) position = value;
      else if (field === "data") event.data += value;
    }
    return complete;
  };
}

function operation(data) {
  try {
    const { id, done } = JSON.parse(data);
    return done ? id : undefined;
  } catch {
    return undefined;
  }
}

/** The same over a WebSocket, which does not count against a browser's six connections. */
export async function* socket(exchange, { after, signal }) {
  const { text } = await exchange.ask("POST", "/operations/tickets", { signal }).then((a) => {
    if (a.status === 201) return a;
    throw new SendError(a.status === 401 ? "unauthorized" : a.status >= 500 ? "server" : "invalid", `a ticket was refused with ${a.status}`, { status: a.status });
  });
  const url = new URL(`${exchange.base.replace(/^http/, "ws")}/operations/socket`);
  url.searchParams.set("ticket", JSON.parse(text).ticket);
  if (after !== undefined) url.searchParams.set("after", after);
  const ws = new WebSocket(url);
  const queue = [];
  let wake = () => {};
  let closed = null;
  ws.onmessage = ({ data }) => {
    queue.push(JSON.parse(data));
    wake();
  };
  ws.onclose = ({ code }) => {
    // A ticket lasts a minute where nobody can look again: a new one is fetched.
    closed = new SendError("reset", `the socket was closed with ${code}`);
    wake();
  };
  const leave = () => ws.close();
  signal?.addEventListener("abort", leave, { once: true });
  try {
    while (!signal?.aborted) {
      while (queue.length > 0) {
        const { type, id, position } = queue.shift();
        yield { type, id, position: String(position) };
      }
      if (closed) throw closed;
      await new Promise((resolve) => {
        wake = resolve;
        if (queue.length > 0 || closed) resolve();
      });
    }
  } finally {
    signal?.removeEventListener("abort", leave);
    ws.close();
  }
}
