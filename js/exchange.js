// One request and what its answer means.
import { SendError } from "./errors.js";
import { parseRetryAfter } from "./retry.js";

/** What a command is on the wire: made once, so that every try has the same bytes. */
export function encode(what, body = {}, key = newKey()) {
  if (!/^[\x21-\x7e]{1,255}$/.test(key)) throw new TypeError(`a key has 1 to 255 visible ASCII characters, and ${JSON.stringify(key)} has not`);
  if (typeof what === "string") what = { command: what };
  const { command, method = "POST", path = `/commands/${segment(command)}` } = what;
  // A string is JSON already: that is how numbers beyond 2^53 are sent.
  let rest = body;
  const named = path.replace(/\{(\w+)\}/g, (place, name) => {
    if (name === "key") return place;
    if (typeof body === "string" || body[name] === undefined) throw new TypeError(`the path ${path} needs the member ${name}`);
    if (rest === body) rest = { ...body };
    delete rest[name]; // the gateway takes it from the path
    return segment(String(body[name]));
  });
  const keyed = named.includes("{key}");
  const name = command ?? `${method} ${named}`;
  return {
    id: `${name}\n${key}`,
    name,
    key,
    method,
    path: keyed ? named.replaceAll("{key}", () => segment(key)) : named,
    keyed,
    body: typeof rest === "string" ? rest : JSON.stringify(rest),
  };
}

// "." and ".." are taken out of paths by every URL parser, encoded or not.
function segment(text) {
  if (!text || text === "." || text === "..") throw new TypeError(`${JSON.stringify(text)} cannot be a part of a path`);
  return encodeURIComponent(text);
}

/** A random UUID, also where crypto.randomUUID is missing: pages without TLS. */
export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6] & 15) | 64;
  b[8] = (b[8] & 63) | 128;
  const hex = Array.from(b, (v) => v.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Speaks HTTP with one gateway. Credentials are asked for at every request, sent to base only, and kept nowhere. */
export class Exchange {
  constructor({ base, authorize, fetch = globalThis.fetch, credentials = "same-origin", patience = 70_000 }) {
    this.base = new URL(base, globalThis.location?.href).href.replace(/\/+$/, "");
    Object.assign(this, { authorize, fetch, credentials, patience });
  }

  /** Opens an exchange; the caller reads the response and calls end. */
  async open(method, path, { headers, body, signal, patience = this.patience } = {}) {
    const control = new AbortController();
    const late = setTimeout(() => control.abort(new DOMException("", "TimeoutError")), patience);
    const gone = () => control.abort(signal.reason);
    signal?.addEventListener("abort", gone, { once: true });
    const end = () => {
      clearTimeout(late);
      signal?.removeEventListener("abort", gone);
    };
    const failed = (err) => this.#failure(err, signal, control, patience);
    try {
      if (signal?.aborted) throw signal.reason;
      const all = { ...headers, ...(await this.#credentials()) };
      const { fetch } = this; // called as a function: browsers refuse it as a method
      const response = await fetch(this.base + path, { method, headers: all, body, signal: control.signal, credentials: this.credentials, cache: "no-store", redirect: "manual" });
      return { response, control, end, failed, onTime: () => clearTimeout(late) };
    } catch (err) {
      end();
      throw failed(err);
    }
  }

  /** Asks and reads the answer to its end. */
  async ask(method, path, options) {
    const { response, end, failed } = await this.open(method, path, options);
    try {
      const text = await response.text();
      const now = Date.parse(response.headers.get("Date")) || Date.now();
      return { status: response.status, headers: response.headers, text, retryAfter: parseRetryAfter(response.headers.get("Retry-After"), now) };
    } catch (err) {
      throw failed(err);
    } finally {
      end();
    }
  }

  /** Sends a command once. */
  async send(c, { wait, signal } = {}) {
    const headers = { "Content-Type": "application/json" };
    if (!c.keyed) headers["Idempotency-Key"] = /["\\]/.test(c.key) ? `"${c.key.replace(/["\\]/g, "\\$&")}"` : c.key;
    if (wait !== undefined) headers.Prefer = wait > 0 ? `wait=${Math.ceil(wait)}` : "respond-async";
    return judge(await this.ask(c.method, c.path, { headers, body: c.body, signal }), c.key);
  }

  async #credentials() {
    let given;
    try {
      given = await this.authorize?.();
    } catch (cause) {
      throw new SendError("unauthorized", `authorizing: ${cause.message}`, { cause });
    }
    return typeof given === "string" ? { Authorization: given } : given;
  }

  #failure(err, signal, control, patience) {
    if (err instanceof SendError) return err;
    if (signal?.aborted) return new SendError("canceled", "canceled by the caller", { cause: signal.reason });
    if (control.signal.aborted) return new SendError("timeout", `no answer within ${patience / 1000} s`, { cause: err });
    return connectionError(err);
  }
}

// Browsers tell scripts no more than that it failed; Node names the reason.
function connectionError(cause) {
  let code = "";
  for (let e = cause; e && !code; e = e.cause ?? e.errors?.[0]) code = typeof e.code === "string" ? e.code : "";
  const kinds = [
    [/^ECONNREFUSED$/, "refused"],
    [/^(ECONNRESET|ECONNABORTED|EPIPE|UND_ERR_SOCKET)$/, "reset"],
    [/^(ENOTFOUND|EAI_)/, "dns"],
    [/TIMEOUT|^ETIMEDOUT$/, "timeout"],
    [/^(CERT_|ERR_TLS|ERR_SSL|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)|_CERT/, "tls"],
  ];
  const kind = kinds.find(([pattern]) => pattern.test(code))?.[1] ?? "connection";
  return new SendError(kind, code || "the connection failed", { cause });
}

const statusClasses = { 401: "unauthorized", 403: "forbidden", 408: "timeout", 409: "conflict", 410: "expired", 413: "too_large", 422: "reused", 429: "throttled" };

/**
 * What an answer says: {accepted} with the operation's id, or {done} with the
 * outcome. Throws a SendError for everything that is neither.
 */
export function judge(answer, key) {
  const { status, headers, text, retryAfter } = answer;
  const p = problem(answer);
  const type = lastPart(p.type ?? "");
  const operation = lastPart(headers.get("X-Operation") ?? p.operation ?? "");
  const replayed = headers.get("Idempotent-Replayed") === "true";
  const known = { status, type, key, operation, retryAfter, text };
  if (status >= 200 && status < 300) {
    let body = null;
    try {
      if (text) body = JSON.parse(text);
    } catch (cause) {
      // A proxy's login page with status 200 must not pass for an outcome.
      throw new SendError("malformed", `${status} with a body that is not JSON`, { ...known, cause });
    }
    const resource = headers.get("X-Resource") ?? "";
    if (status !== 202) return { done: { state: "completed", status, body, text, replayed, operation, resource, key } };
    const accepted = operation || body?.id;
    if (!accepted) throw new SendError("malformed", "202 without the operation's id", known);
    return { accepted, retryAfter };
  }
  const ended = /^operation-(rejected|failed|canceled)$/.exec(type)?.[1];
  if (ended) return { done: { state: ended, status, body: p, text, replayed, operation, key, code: p.code ?? "", reason: p.detail ?? "" } };
  const kind = status >= 500 ? "server" : (statusClasses[status] ?? "invalid");
  throw new SendError(kind, `${status || "a redirect"}${type ? ` ${type}` : ""}${p.detail ? `: ${p.detail}` : ""}`, known);
}

function problem({ headers, text }) {
  if (!/^application\/problem\+json\b/.test(headers.get("Content-Type") ?? "")) return {};
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {}; // the status says enough
  }
}

const lastPart = (path) => path.slice(path.lastIndexOf("/") + 1);
