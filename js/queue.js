// The leader's work: what is pending is sent until it has an outcome.
import { SendError, flatten, passes } from "./errors.js";
import { Series, canceled } from "./retry.js";

const probe = 10_000; // between tries while the browser says that it is offline
const keepSeen = 60_000; // for tabs that are loaded again meanwhile
const keepUnseen = 7 * 86_400_000;

const offline = () => globalThis.navigator?.onLine === false;

export class Queue {
  #c; // what the client gives: store, exchange, outcomes, rules, tell, post
  #records = null; // null while another tab leads
  #late = null; // what changed while they are read
  #work = new Map(); // id → how the sending of one intention stands
  #sending = 0;
  #down = false; // the last try did not reach the server
  #probeAt = Date.now() + probe;
  #timer = 0;

  constructor(context) {
    this.#c = context;
  }

  async lead(leading) {
    clearTimeout(this.#timer);
    for (const w of this.#work.values()) w.control.abort();
    this.#work.clear();
    this.#records = this.#late = null;
    if (leading) await this.reload();
  }

  /** Reads all there is, also what other processes have put there, and forgets what was seen. */
  async reload() {
    const records = new Map();
    const late = [];
    const now = Date.now();
    this.#late = late;
    for (const r of await this.#c.store.all()) {
      if (!r.key) continue;
      const old = r.seen ? r.seen + keepSeen : r.settledAt + keepUnseen;
      if (!r.outcome) records.set(r.id, r);
      else if (old < now) await this.#c.store.update(r.id, (x) => (x?.outcome ? undefined : x));
    }
    if (this.#late !== late) return; // it was begun again, or the lead is lost
    this.#late = null;
    this.#records = records;
    for (const change of late) this.changed(...change);
    this.turn();
  }

  /** Takes notice of an intention that was stored, or is no longer to be sent. */
  changed(id, record) {
    this.#late?.push([id, record]);
    if (!this.#records) return;
    if (record && !record.outcome) {
      this.#records.set(id, record);
    } else {
      this.#records.delete(id);
      this.#work.get(id)?.control.abort();
    }
    this.turn();
  }

  /** Tries everything now, whatever it was waiting for. */
  hurry(spread = 0) {
    this.#probeAt = 0;
    for (const w of this.#work.values()) w.due = Date.now() + Math.random() * spread;
    this.turn();
  }

  /** The browser has just said that it is offline. */
  offline() {
    this.#probeAt = Date.now() + probe;
  }

  turn() {
    clearTimeout(this.#timer);
    if (!this.#records) return;
    const now = Date.now();
    let next = Infinity;
    let limit = this.#down ? 1 : this.#c.rules.parallel;
    if (offline() && this.#records.size > 0) {
      limit = now >= this.#probeAt ? 1 : 0;
      next = Math.max(this.#probeAt, now + 100);
    }
    for (const r of this.#records.values()) {
      const w = this.#of(r);
      if (w.busy) continue;
      if (w.due > now) next = Math.min(next, w.due);
      else if (w.accepted && !w.told) this.#await(r, w);
      else if (this.#sending >= limit) continue;
      else if (w.series.tally.tries > 0 && !this.#c.rules.budget.spend()) next = Math.min(next, now + 100);
      else this.#send(r, w);
    }
    if (next < Infinity) this.#timer = setTimeout(() => this.turn(), Math.min(next - now, 60_000));
  }

  #of(r) {
    let w = this.#work.get(r.id);
    if (!w) {
      w = { control: new AbortController(), series: new Series(this.#c.rules), due: 0, number: 0, busy: false, accepted: r.operation, told: false };
      this.#work.set(r.id, w);
    }
    return w;
  }

  async #await(r, w) {
    w.busy = true;
    try {
      await this.#c.outcomes.wait(w.accepted, w.control.signal);
      w.told = true;
    } catch (err) {
      await this.#failed(r, w, err);
    }
    w.busy = false;
    this.turn();
  }

  async #send(r, w) {
    w.busy = true;
    this.#sending++;
    if (offline()) this.#probeAt = Date.now() + probe;
    try {
      await this.#try(r, w);
    } catch (err) {
      await this.#failed(r, w, err);
    }
    this.#sending--;
    w.busy = false;
    this.turn();
  }

  async #try(r, w) {
    const { store, exchange, rules } = this.#c;
    const late = r.deadline && !w.accepted && Date.now() > r.deadline;
    // From here on it may have happened: cancel has to know, also after a crash.
    const now = await store.update(r.id, (x) => (x && !x.outcome && !x.sent && !late ? { ...x, sent: true } : x));
    if (!now || now.outcome) {
      this.#records?.delete(r.id);
      return;
    }
    if (late) throw new SendError("deadline", now.sent ? "no outcome before its deadline; it may have happened" : "not sent before its deadline");
    if (w.number === 0) rules.budget.earn();
    const step = (what, more) => this.#c.post({ type: "try", id: r.id, key: r.key, name: r.name, number: w.number, what, ...more });
    w.number++;
    w.step = step;
    step("sending");
    const answer = await exchange.send(r, { wait: rules.prefer, signal: w.control.signal });
    this.#down = false;
    w.series = new Series(rules);
    if (answer.done) {
      step(answer.done.state, { outcome: answer.done });
      await this.#settle(r, answer.done);
      return;
    }
    step("accepted");
    if (w.told) w.due = Date.now() + 1000; // replayed by an operator, and open again
    w.accepted = answer.accepted;
    w.told = false;
    if (r.operation !== w.accepted) await store.update(r.id, (x) => x && { ...x, operation: w.accepted });
  }

  async #failed(r, w, err) {
    if (w.control.signal.aborted) return; // another tab leads, or it was canceled
    const failed = err instanceof SendError ? err : new SendError("connection", `the store failed: ${err.message}`, { cause: err });
    Object.assign(failed, { key: r.key, operation: failed.operation || w.accepted || "" });
    this.#down = ["connection", "refused", "dns", "tls", "unauthorized"].includes(failed.class);
    const held = passes(failed.class) || failed.class === "unauthorized" || failed.class === "tls";
    const wait = w.series.add(failed) ?? (held && this.#c.rules.policies[failed.class]?.tries !== 1 ? 30_000 : undefined);
    w.step?.("failed", { error: flatten(failed), wait });
    if (wait === undefined) {
      await this.#settle(r, { state: "error", key: r.key, errors: flatten(w.series.tally.error()) });
      return;
    }
    w.due = Date.now() + wait;
    // Whoever waits can sign in; until then nothing is lost.
    if (failed.class === "unauthorized") this.#c.post({ type: "unauthorized", errors: flatten(failed) });
  }

  async #settle(r, outcome) {
    this.#records?.delete(r.id);
    this.#work.delete(r.id);
    await this.#c.settle(r.id, outcome);
  }

  /** Ends what is under way; the records stay. */
  close() {
    clearTimeout(this.#timer);
    for (const w of this.#work.values()) w.control.abort(canceled());
    this.#records = this.#late = null;
  }
}
