// Run by node_test.go, which starts the server: node --test js/test/
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { flatten, unflatten } from "../errors.js";
import { encode, judge, newKey } from "../exchange.js";
import { Budget, Series, parseRetryAfter, pauseAfter } from "../retry.js";
import * as entry from "../semel.js";
import * as node from "../node.js";
import { parser } from "../stream.js";

const { Rejected, SendError, SendErrors, createClient, memoryStore } = entry;
const { fileStore } = node;
const server = process.env.SEMEL_TEST_SERVER;
const quick = { first: 5, most: 50 };

const client = (t, principal, more) => {
  const c = createClient({ base: `${server}/api`, principal, lease: 300, authorize: () => `Bearer secret-of-${principal}`, store: memoryStore(), retry: quick, ...more });
  t.after(() => c.close());
  return c;
};
const balance = async (account) => (await fetch(`${server}/balance/${account}`)).json();
const release = (gate) => fetch(`${server}/gates/${gate}`, { method: "POST" });
const root = await mkdtemp(join(tmpdir(), "semel-"));
after(() => rm(root, { recursive: true, force: true, maxRetries: 5 }));
const directory = () => mkdtemp(join(root, "pending-"));
const flaky = (kind) => {
  let calls = 0;
  return (...args) => (++calls <= 2 ? Promise.reject(Object.assign(new TypeError("fetch failed"), { cause: { code: kind } })) : fetch(...args));
};

test("Retry-After in both forms", () => {
  const now = Date.parse("Tue, 15 Nov 1994 08:12:31 GMT");
  for (const [value, want] of [
    ["120", 120_000], ["0", 0], ["", 0], [null, 0], ["-1", 0], ["1.5", 0], ["soon", 0],
    ["Tue, 15 Nov 1994 08:13:31 GMT", 60_000], ["Tue, 15 Nov 1994 08:11:31 GMT", 0], ["9".repeat(40), Number.MAX_SAFE_INTEGER],
  ]) assert.equal(parseRetryAfter(value, now), want, String(value));
});

test("full jitter stays under its bound and uses all of it", () => {
  for (const n of [1, 3, 8, 2000]) {
    const bound = Math.min(1000, 10 * 2 ** (n - 1));
    const drawn = Array.from({ length: 500 }, () => pauseAfter(n, { first: 10, most: 1000 }));
    assert.ok(Math.max(...drawn) <= bound && Math.max(...drawn) > bound * 0.9 && Math.min(...drawn) < bound * 0.1);
  }
  assert.equal(pauseAfter(7, { first: 30, fixed: true }), 30);
});

test("a budget bounds retries, and earns them back", () => {
  const b = new Budget({ saved: 2, floor: 0, ratio: 0.5 });
  assert.deepEqual([b.spend(), b.spend(), b.spend()], [true, true, false]);
  b.earn();
  assert.equal(b.spend(), false);
  b.earn();
  assert.equal(b.spend(), true);
});

test("each class has its policy", () => {
  const after = (kind, rules = {}) => new Series({ wait: { first: 0 }, ...rules }).add(new SendError(kind, kind));
  for (const kind of ["refused", "reset", "dns", "connection", "timeout", "throttled", "server", "malformed"]) assert.equal(after(kind), 0, kind);
  for (const kind of ["canceled", "tls", "unauthorized", "forbidden", "conflict", "expired", "too_large", "reused", "invalid", "failed"]) assert.equal(after(kind), undefined, kind);
  assert.equal(after("server", { policies: { server: { tries: 1 } } }), undefined);
  assert.equal(after("forbidden", { policies: { forbidden: { first: 7, fixed: true } } }), 7);
  assert.equal(after("failed", { policies: { failed: {} } }), undefined, "an outcome is not open to a policy");
  assert.equal(new Series({ wait: { first: 0 } }).add(new SendError("server", "", { retryAfter: 1500 })), 1500);
});

test("distinct errors keep their counts, also when they are stored", () => {
  const series = new Series({ wait: { first: 0 }, tries: 4 });
  for (const [kind, words] of [["server", "503"], ["reset", "ECONNRESET"], ["server", "503"], ["timeout", "late"]]) series.add(new SendError(kind, words, { key: "k" }));
  for (const err of [series.tally.error(), unflatten(structuredClone(flatten(series.tally.error())))]) {
    assert.ok(err instanceof SendErrors && err instanceof AggregateError);
    assert.deepEqual(err.errors.map((e) => [e.class, e.count]), [["reset", 1], ["server", 2], ["timeout", 1]]);
    assert.ok(err.has("reset") && !err.has("dns") && err.tries === 4 && err.key === "k" && err.class === "timeout");
    assert.match(err.message, /^4 tries failed: ECONNRESET \(×1\); 503 \(×2\); late \(×1\)$/);
  }
});

test("keys, paths and bodies", () => {
  assert.match(newKey(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  for (const key of ["", " ", "é", "a b", "x".repeat(256)]) assert.throws(() => encode("a", {}, key), TypeError);
  const bound = encode({ method: "PUT", path: "/accounts/{account}/withdrawals/{key}" }, { account: "a/b", cents: 1 }, "k?");
  assert.deepEqual([bound.path, bound.body, bound.keyed], ["/accounts/a%2Fb/withdrawals/k%3F", '{"cents":1}', true]);
  assert.throws(() => encode({ method: "PUT", path: "/accounts/{account}" }, {}), /account/);
  for (const dots of [".", ".."]) assert.throws(() => encode({ method: "PUT", path: "/{key}" }, {}, dots), TypeError);
  assert.equal(encode("a", '{"cents":9223372036854775807}').body, '{"cents":9223372036854775807}');
});

test("events arrive in any pieces", () => {
  const text = 'retry: 1000\r\n\r\n: alive\n\nevent: ready\nid: 7\ndata: {"position":7}\n\nevent: operation.completed\rid: 8\rdata: {"id":"x","done":true}\r\revent: operation.running\ndata: {"id":"y","done":false}\n\n';
  for (const size of [1, 2, 3, 7, text.length]) {
    const parse = parser();
    const events = [];
    for (let i = 0; i < text.length; i += size) events.push(...parse(text.slice(i, i + size)));
    assert.deepEqual(events.map((e) => [e.type, e.position, e.id]), [["ready", "7", undefined], ["operation.completed", "8", "x"], ["operation.running", "8", undefined]], `pieces of ${size}`);
  }
});

test("answers are told apart", () => {
  const answer = (status, body, type = "application/json") => ({ status, text: body, headers: new Headers({ "Content-Type": type }), retryAfter: 0 });
  const kind = (...a) => {
    try {
      return Object.keys(judge(answer(...a), "k"))[0];
    } catch (err) {
      return err.class;
    }
  };
  const problem = (status, slug) => kind(status, JSON.stringify({ type: `https://semel.dev/problems/${slug}` }), "application/problem+json");
  assert.deepEqual([kind(200, "{}"), kind(204, ""), kind(200, "<html>"), kind(202, "{}"), kind(202, '{"id":"x"}')], ["done", "done", "malformed", "malformed", "accepted"]);
  const classes = { 0: "invalid", 302: "invalid", 400: "invalid", 401: "unauthorized", 403: "forbidden", 404: "invalid", 408: "timeout", 409: "conflict", 410: "expired", 413: "too_large", 422: "reused", 429: "throttled", 500: "server", 503: "server" };
  for (const [status, want] of Object.entries(classes)) assert.equal(kind(Number(status), ""), want, status);
  assert.deepEqual([problem(418, "operation-rejected"), problem(500, "operation-failed"), problem(500, "outcome-unknown")], ["done", "done", "server"]);
});

test("a submit, a repeat and a rejection", async (t) => {
  const c = client(t, "norm");
  const first = await (await c.submit("deposit", { account: "norm", cents: 100 }, { key: "one" })).outcome();
  assert.deepEqual([first.state, first.status, first.body.balance, first.replayed], ["completed", 200, 100, false]);
  const again = await c.send("deposit", { account: "norm", cents: 100 }, { key: "one" });
  assert.deepEqual([again.replayed, again.text], [true, first.text]);
  const no = await c.submit("deposit", { account: "norm", cents: -1 });
  await assert.rejects(no.outcome(), (err) => err instanceof Rejected && err.code === "nothing" && err.status === 409 && err.key === no.key);
  await assert.rejects(c.send("deposit", { account: "norm", cents: 2 }, { key: "one" }), { class: "reused", status: 422 });
  assert.deepEqual(await balance("norm"), { count: 1, cents: 100 });
});

test("network errors are named and tried again", async (t) => {
  for (const [code, kind] of [["ECONNREFUSED", "refused"], ["ECONNRESET", "reset"], ["ENOTFOUND", "dns"], ["UND_ERR_HEADERS_TIMEOUT", "timeout"]]) {
    const tries = [];
    const c = client(t, "nick", { fetch: flaky(code) });
    await c.send("deposit", { account: "nick", cents: 100 }, { key: kind, onTry: (x) => x.error && tries.push(x.error.class) });
    assert.deepEqual(tries, [kind, kind]);
  }
  assert.deepEqual(await balance("nick"), { count: 4, cents: 400 });
  const gone = createServer().listen(0);
  await once(gone, "listening");
  const base = `http://127.0.0.1:${gone.address().port}`;
  gone.close();
  const c = client(t, "nick", { base });
  await assert.rejects(c.send("deposit", {}, { tries: 3 }), (err) => err instanceof SendError && err.class === "refused" && err.count === 3);
});

test("an outcome that is late comes by the stream, and by polls", async (t) => {
  for (const push of ["sse", "poll"]) {
    const c = client(t, `late-${push}`, { wait: 0, push });
    const steps = [];
    c.on("try", (s) => {
      steps.push(s.what);
      if (s.what === "accepted") release(push);
    });
    const intention = await c.submit("deposit", { account: push, cents: 100, gate: push });
    assert.equal((await intention.outcome({ signal: AbortSignal.timeout(20_000) })).body.balance, 100);
    assert.deepEqual(steps, ["sending", "accepted", "sending", "completed"]);
  }
});

test("the caller can give up waiting, and the intention stays", async (t) => {
  const c = client(t, "gus", { wait: 0 });
  const intention = await c.submit("deposit", { account: "gus", cents: 100, gate: "gus" });
  await assert.rejects(intention.outcome({ signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
  assert.equal((await c.pending()).length, 1);
  await release("gus");
  assert.equal((await intention.outcome()).body.balance, 100);
});

test("a deadline that passed before the first send", async (t) => {
  const c = client(t, "dora");
  const intention = await c.submit("deposit", { account: "dora", cents: 100 }, { deadline: new Date(Date.now() - 1000) });
  await assert.rejects(intention.outcome(), { class: "deadline", message: "not sent before its deadline" });
  assert.equal((await balance("dora")).count, 0);
});

test("an outcome that nobody saw is told to the next process", async (t) => {
  const store = memoryStore();
  const one = client(t, "otto", { store });
  await one.submit("deposit", { account: "otto", cents: 100 }, { key: "unseen" });
  while ((await one.pending()).length > 0) await new Promise((r) => setTimeout(r, 10));
  one.close();
  const two = client(t, "otto", { store });
  const told = await new Promise((resolve) => two.on("outcome", resolve));
  assert.deepEqual([told.key, told.name, told.body.balance], ["unseen", "deposit", 100]);
});

test("a file store keeps what it said it kept, and says what is broken", async (t) => {
  const dir = await directory();
  const store = fileStore(dir);
  await Promise.all(Array.from({ length: 20 }, (_, i) => store.update(`k${i % 4}`, (r) => ({ createdAt: i, n: (r?.n ?? 0) + 1 }))));
  assert.deepEqual((await fileStore(dir).all()).map((r) => r.n), [5, 5, 5, 5]);
  assert.equal((await readdir(dir)).length, 4, "no temporary file is left");
  await store.update("k0", () => undefined);
  assert.equal((await store.all()).length, 3);
  const [name] = await readdir(dir);
  await writeFile(join(dir, name), (await readFile(join(dir, name), "utf8")).slice(0, 10));
  await assert.rejects(store.all(), (err) => err.message.includes(name));
});

test("two processes share a file store: one sends, both get the outcome", async (t) => {
  const dir = await directory();
  const clients = [1, 2].map(() => client(t, "pam", { store: fileStore(dir) }));
  const intentions = await Promise.all(clients.map((c) => c.submit("deposit", { account: "pam", cents: 100 }, { key: "shared" })));
  for (const o of await Promise.all(intentions.map((i) => i.outcome()))) assert.equal(o.body.balance, 100);
  assert.deepEqual(await balance("pam"), { count: 1, cents: 100 });
});

test("killed again and again, nothing is lost or doubled", async (t) => {
  const dir = await directory();
  const want = 30;
  for (let kill = 0; kill < 5; kill++) {
    const child = spawn(process.execPath, [fileURLToPath(new URL("submit.js", import.meta.url)), dir, String(want), String(kill)], { stdio: ["ignore", "pipe", "inherit"] });
    let said = 0;
    for await (const part of child.stdout) {
      said += String(part).split("\n").length - 1;
      if (said >= 3) child.kill("SIGKILL"); // it has submitted a few, and some are on their way
    }
  }
  const c = client(t, "kim", { store: fileStore(dir) });
  for (let i = 0; i < want; i++) await c.submit("deposit", { account: "kim", cents: 100 }, { key: `kim-${i}` });
  await c.drain({ signal: AbortSignal.timeout(30_000) });
  assert.deepEqual(await balance("kim"), { count: want, cents: 100 * want });
});

test("the guide's program, run twice", async () => {
  const dir = await directory();
  const env = { ...process.env, BANK_TOKEN: "secret-of-ida" };
  const run = () => promisify(execFile)(process.execPath, [fileURLToPath(new URL("job.js", import.meta.url)), dir], { env, timeout: 30_000 });
  assert.equal((await run()).stdout, "1 done, nothing pending\n");
  assert.equal((await run()).stdout, "0 done, nothing pending\n");
  assert.deepEqual(await balance("interest"), { count: 1, cents: 100 });
});

test("the types name what there is", async (t) => {
  const declared = async (file) => {
    const text = await readFile(new URL(file, import.meta.url), "utf8");
    return Array.from(text.matchAll(/^export (?:class|function|const) (\w+)/gm), (m) => m[1]).sort();
  };
  assert.deepEqual(await declared("../semel.d.ts"), Object.keys(entry).sort());
  assert.deepEqual(await declared("../node.d.ts"), Object.keys(node).sort());
  const text = await readFile(new URL("../semel.d.ts", import.meta.url), "utf8");
  const members = (name) => Array.from(new RegExp(`^export (?:interface|class) ${name}\\b[^]*?^}`, "m").exec(text)[0].matchAll(/^  (?:readonly )?(\w+)\??(?=[<(:])/gm), (m) => m[1]);
  const c = client(t, "tess");
  const intention = await c.submit("deposit", { account: "tess", cents: 100 });
  const outcome = await intention.outcome();
  const no = await c.send("deposit", { account: "tess", cents: -1 }).catch((err) => err);
  const own = (o) => Object.keys(o).filter((k) => k !== "name" && k !== "fetch").sort();
  const methods = Object.getOwnPropertyNames(Object.getPrototypeOf(c)).filter((k) => k !== "constructor");
  const want = (name) => [...new Set(members(name))].filter((k) => k !== "has" && k !== "name" && k !== "constructor").sort();
  assert.deepEqual(methods.sort(), want("Client"));
  assert.deepEqual(own(intention), want("Intention"));
  assert.deepEqual(own(outcome), want("Outcome"));
  assert.deepEqual(own(no), want("Rejected"));
  assert.deepEqual(own(new SendError("server", "")), want("SendError"));
});
