// Commands that happen once, from a browser or Node. A key is made for each
// intention and stored with it before the first byte is sent; every try carries
// it, until there is an outcome: through lost replies, reloads and days offline.
import { Rejected, SendError, unflatten } from "./errors.js";
import { Exchange, encode } from "./exchange.js";
import { lead } from "./lead.js";
import { Outcomes } from "./outcomes.js";
import { Queue } from "./queue.js";
import { Series, canceled, pause, sharedBudget } from "./retry.js";
import { openStore } from "./store.js";

export { Rejected, SendError, SendErrors } from "./errors.js";
export { newKey } from "./exchange.js";
export { Budget } from "./retry.js";
export { memoryStore } from "./store.js";

export const createClient = (options) => new Client(options);

class Client {
  #exchange;
  #outcomes;
  #rules;
  #store;
  #ready;
  #queue;
  #lead = null;
  #channel = null;
  #listeners = new Map(); // event → functions
  #waiting = new Map(); // intention → Set of {resolve, reject}
  #closed = new AbortController();
  #look = 0;
  #held = 0;

  constructor({ base = "", principal = "", store, push, silence, wait, budget = sharedBudget, policies = {}, retry, lease, parallel = 4, ...more } = {}) {
    this.#exchange = new Exchange({ base, ...more });
    this.#outcomes = new Outcomes(this.#exchange, { push, silence });
    this.#rules = { budget, policies, wait: retry, parallel, prefer: wait };
    // Another principal's intentions are not sent with this one's credentials.
    this.#ready = this.#open(`semel ${this.#exchange.base} ${principal}`, store, lease);
    this.#ready.catch(() => {}); // every method that needs it says so
  }

  async #open(name, given, lease) {
    const store = given ?? (await openStore(name));
    if (this.#closed.signal.aborted) throw canceled();
    this.#store = store;
    const context = { store, exchange: this.#exchange, outcomes: this.#outcomes, rules: this.#rules, post: (m) => this.#post(m), settle: (...a) => this.#settle(...a) };
    this.#queue = new Queue(context);
    if (store.scope === "origin" && globalThis.BroadcastChannel) {
      this.#channel = new BroadcastChannel(name);
      this.#channel.onmessage = ({ data }) => this.#hear(data);
    }
    this.#lead = lead(name, store, { lease, onChange: (leading) => this.#follow(leading), poke: () => this.#channel?.postMessage({ type: "poke" }) });
    globalThis.addEventListener?.("online", this.#online);
    globalThis.addEventListener?.("offline", this.#offline);
    const told = store.scope === "none" || this.#channel;
    this.#look = setInterval(() => this.#glance(), told ? 60_000 : 1000);
    this.#look.unref?.();
  }

  /** What keeps intentions: "indexeddb", "localstorage", "memory" or "file". */
  async durability() {
    await this.#ready;
    return this.#store.kind;
  }

  /** Stores an intention and resolves once it is stored; it is sent from then on. A key that is stored already is the same intention. */
  async submit(what, body, { key, deadline } = {}) {
    const c = encode(what, body, key);
    await this.#ready;
    const fresh = { ...c, createdAt: Date.now(), deadline: deadline && +deadline };
    const kept = await this.#store.update(c.id, (had) => had ?? fresh);
    if (kept.body !== c.body) throw new SendError("reused", `the key ${c.key} is that of another body`, { key: c.key });
    this.#post({ type: "stored", id: c.id });
    if (!kept.outcome) this.#queue.changed(c.id, kept);
    this.#lead.want();
    return this.#intention(kept);
  }

  /** Sends now and keeps nothing: for who stores the key, or needs none. */
  async send(what, body, { key, signal, tries = 8, onTry = () => {} } = {}) {
    const c = encode(what, body, key);
    const rules = this.#rules;
    rules.budget.earn();
    let failed = new Series({ ...rules, tries });
    let number = 0;
    for (;;) {
      onTry({ number: ++number, what: "sending" });
      try {
        const answer = await this.#exchange.send(c, { wait: rules.prefer, signal });
        if (answer.done) {
          onTry({ number, what: answer.done.state, outcome: answer.done });
          return conclude(answer.done);
        }
        onTry({ number, what: "accepted" });
        failed = new Series({ ...rules, tries });
        await this.#outcomes.wait(answer.accepted, signal);
      } catch (err) {
        if (!(err instanceof SendError) || err.class === "failed") throw err;
        err.key = c.key;
        const wait = failed.add(err);
        onTry({ number, what: "failed", error: err, wait });
        if (wait === undefined) throw failed.tally.error();
        if (!rules.budget.spend()) {
          failed.tally.add(new SendError("budget", "not tried again: the retry budget is used up", { key: c.key }));
          throw failed.tally.error();
        }
        await pause(wait, signal).catch(() => {}); // the next try says that it was canceled
      }
    }
  }

  /** The intentions that have no outcome yet, oldest first. */
  async pending() {
    await this.#ready;
    return (await this.#store.all()).filter((r) => r.key && !r.outcome).map((r) => this.#intention(r));
  }

  /** Tries everything now, and resolves when nothing is pending. */
  async drain({ onProgress = () => {}, signal } = {}) {
    await this.#ready;
    const before = (await this.pending()).length;
    const gone = [];
    this.#hold(1);
    try {
      return await new Promise((resolve, reject) => {
        const look = async () => {
          const left = (await this.pending()).length;
          onProgress({ done: Math.max(0, before - left), left });
          if (left === 0) resolve({ done: before });
        };
        const again = () => look().catch(reject);
        const abort = () => reject(signal.reason);
        gone.push(this.#listen("settled", again), this.#listen("unauthorized", reject), () => signal?.removeEventListener("abort", abort));
        this.#closed.signal.addEventListener("abort", () => reject(canceled()), { once: true });
        if (signal?.aborted) abort();
        signal?.addEventListener("abort", abort, { once: true });
        again();
        this.#hurry();
      });
    } finally {
      for (const off of gone) off();
      this.#hold(-1);
    }
  }

  /** Calls fn at every "outcome", "try" or "unauthorized"; returns what ends that. Outcomes that nobody has seen come at once. */
  on(event, fn) {
    if (!["outcome", "try", "unauthorized"].includes(event)) throw new TypeError(`there is no event ${JSON.stringify(event)}`);
    const off = this.#listen(event, fn);
    if (event === "outcome") this.#catchUp(fn).catch((err) => console.warn("semel: outcomes could not be read:", err));
    return off;
  }

  /** Ends what is under way in this page or process. What is pending stays stored. */
  close() {
    this.#closed.abort();
    globalThis.removeEventListener?.("online", this.#online);
    globalThis.removeEventListener?.("offline", this.#offline);
    clearInterval(this.#look);
    this.#queue?.close();
    this.#lead?.close();
    this.#channel?.close();
    this.#channel = null;
    for (const set of this.#waiting.values()) for (const w of set) w.reject(canceled());
  }

  #intention({ id, key, name, body, createdAt }) {
    return { id, key, name, body, createdAt, outcome: (o) => this.#outcome(id, key, o), cancel: () => this.#cancel(id) };
  }

  #outcome(id, key, { signal } = {}) {
    return new Promise((resolve, reject) => {
      const set = this.#waiting.get(id) ?? new Set();
      this.#waiting.set(id, set);
      const end = (act) => (value) => {
        if (!set.delete(waiter)) return;
        if (set.size === 0 && this.#waiting.get(id) === set) this.#waiting.delete(id);
        this.#hold(-1);
        signal?.removeEventListener("abort", abort);
        act(value);
      };
      const waiter = { resolve: end(resolve), reject: end(reject) };
      const abort = () => waiter.reject(signal.reason);
      set.add(waiter);
      this.#hold(1);
      if (signal?.aborted) abort();
      signal?.addEventListener("abort", abort, { once: true });
      // It may be there already, or go unheard while this tab is loaded.
      this.#check(id, key).catch(waiter.reject);
    });
  }

  // A Node process lives as long as somebody waits; what only stands in the
  // store can wait for the next one.
  #hold(n) {
    this.#held += n;
    if (this.#held > 0) this.#look.ref?.();
    else this.#look.unref?.();
  }

  async #check(id, key) {
    const r = await this.#store.update(id, (x) => x);
    if (r?.outcome) await this.#told(id, r.outcome);
    else if (r) this.#lead.want();
    else for (const w of [...(this.#waiting.get(id) ?? [])]) w.reject(new SendError("canceled", "the intention is no longer stored", { key }));
  }

  async #cancel(id) {
    let outcome;
    const change = (r) => {
      outcome = undefined;
      if (!r || r.outcome) return r;
      const message = r.sent ? "canceled; it may have happened" : "canceled before it was sent";
      outcome = { state: "error", key: r.key, errors: [{ class: "canceled", message, key: r.key, count: 1 }], certain: !r.sent };
      return r.sent ? { ...r, outcome, settledAt: Date.now() } : undefined;
    };
    await this.#store.update(id, change);
    if (!outcome) return false;
    this.#queue.changed(id, undefined);
    this.#post({ type: "settled", id, outcome });
    return outcome.certain;
  }

  async #settle(id, outcome) {
    try {
      const r = await this.#store.update(id, (x) => (x && !x.outcome ? { ...x, outcome, settledAt: Date.now() } : x));
      outcome = r?.outcome ?? outcome; // it was canceled meanwhile
    } catch (err) {
      console.warn("semel: an outcome could not be stored; it will be asked for again after a reload:", err);
    }
    this.#post({ type: "settled", id, outcome });
  }

  /** Gives an outcome to whoever waits for it here, and notes that it was seen. */
  async #told(id, outcome) {
    const waiters = [...(this.#waiting.get(id) ?? [])];
    for (const w of waiters) {
      try {
        w.resolve(conclude(outcome));
      } catch (err) {
        w.reject(err);
      }
    }
    const listeners = [...(this.#listeners.get("outcome") ?? [])];
    if (waiters.length === 0 && listeners.length === 0) return;
    await Promise.all(listeners.map((fn) => fn(describe(id, outcome))));
    await this.#store.update(id, (r) => (r?.outcome && !r.seen ? { ...r, seen: Date.now() } : r));
  }

  async #catchUp(fn) {
    await this.#ready;
    for (const r of await this.#store.all()) {
      if (!r.outcome || r.seen) continue;
      await fn(describe(r.id, r.outcome));
      await this.#store.update(r.id, (x) => x?.outcome && { ...x, seen: Date.now() });
    }
  }

  #listen(event, fn) {
    const set = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, set.add(fn));
    return () => set.delete(fn);
  }

  #emit(event, value) {
    for (const fn of this.#listeners.get(event) ?? []) fn(value);
  }

  /** Tells this tab and the others. */
  #post(message) {
    this.#channel?.postMessage(message);
    if (message.type !== "stored") this.#hear(message);
  }

  #hear(m) {
    if (m.type === "poke" && this.#lead?.leading()) this.#channel?.postMessage({ type: "here" });
    if (m.type === "here") this.#lead?.heard();
    if (m.type === "stored") this.#refresh(m.id);
    if (m.type === "hurry" && this.#lead?.leading()) this.#queue.hurry();
    if (m.type === "try") this.#emit("try", m.error ? { ...m, error: unflatten(m.error) } : m);
    if (m.type === "settled") {
      if (m.outcome.state === "error") this.#queue.changed(m.id, undefined); // another tab may have canceled it
      this.#told(m.id, m.outcome).catch((err) => console.warn("semel: an outcome could not be told:", err));
      this.#emit("settled", m.id);
    }
    if (m.type === "unauthorized") {
      const err = Object.assign(unflatten(m.errors), { kept: true });
      for (const set of this.#waiting.values()) for (const w of [...set]) w.reject(err);
      this.#emit("unauthorized", err);
    }
  }

  async #refresh(id) {
    if (this.#lead?.leading()) this.#queue.changed(id, await this.#store.update(id, (r) => r));
  }

  async #follow(leading) {
    try {
      await this.#queue.lead(leading);
    } catch (err) {
      console.warn("semel: what is pending could not be read:", err);
    }
  }

  // Where nobody is told by a channel, the store is looked into; elsewhere only to forget what was seen.
  async #glance() {
    try {
      if (this.#lead.leading()) await this.#queue.reload();
      for (const r of await this.#store.all()) if (r.outcome && (!r.seen || this.#waiting.has(r.id))) await this.#told(r.id, r.outcome);
    } catch (err) {
      console.warn("semel: what is pending could not be read:", err);
    }
  }

  #online = () => {
    if (this.#lead?.leading()) this.#queue.hurry(250); // not with everybody else
  };

  #offline = () => this.#queue.offline();

  #hurry() {
    this.#queue.hurry();
    this.#lead.want();
    this.#channel?.postMessage({ type: "hurry" });
  }
}

/** What an outcome is to who waits for it. */
function conclude(outcome) {
  if (outcome.state === "completed") return outcome;
  if (outcome.state === "rejected") throw new Rejected(outcome);
  if (outcome.errors) throw unflatten(outcome.errors);
  const { state, reason, code, ...known } = outcome;
  throw new SendError("failed", `the operation ${state === "failed" ? "failed" : "was canceled"}: ${reason || code}`, { ...known, type: `operation-${state}` });
}

function describe(id, outcome) {
  const name = id.slice(0, id.indexOf("\n"));
  try {
    return { id, name, ...conclude(outcome) };
  } catch (error) {
    return { id, name, key: outcome.key, state: outcome.state, status: outcome.status, error };
  }
}
