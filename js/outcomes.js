// Waiting for operations that the gateway has taken and not yet finished: one
// stream for all of them, and long polls where streams do not come through.
import { SendError } from "./errors.js";
import { canceled, pause, pauseAfter } from "./retry.js";
import { serverSent, socket } from "./stream.js";

export class Outcomes {
  #waiting = new Map(); // operation id → {resolve, reject}[]
  #exchange;
  #options;
  #after; // the position up to which the stream was read
  #control = null;

  constructor(exchange, { push = "sse", silence = 45_000 } = {}) {
    this.#exchange = exchange;
    this.#options = { push, silence };
  }

  /** Resolves once the operation is known to be over; how, its command says when it is sent again. */
  wait(id, signal) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(canceled("", id));
        return;
      }
      const entry = { resolve: () => done(resolve), reject: (err) => done(() => reject(err)) };
      const gone = () => entry.reject(canceled("", id));
      const done = (act) => {
        signal?.removeEventListener("abort", gone);
        const rest = (this.#waiting.get(id) ?? []).filter((e) => e !== entry);
        if (rest.length > 0) this.#waiting.set(id, rest);
        else this.#waiting.delete(id);
        if (this.#waiting.size === 0) this.#control?.abort();
        act();
      };
      signal?.addEventListener("abort", gone, { once: true });
      this.#waiting.set(id, [...(this.#waiting.get(id) ?? []), entry]);
      if (!this.#control) this.#run();
      else this.#look(id); // it may have ended before the stream knew that somebody waits
    });
  }

  #tell(id, act = (entry) => entry.resolve()) {
    for (const entry of this.#waiting.get(id) ?? []) act(entry);
  }

  async #run() {
    const control = new AbortController();
    this.#control = control;
    let failures = 0;
    let polls = this.#options.push === "poll";
    while (!control.signal.aborted) {
      try {
        // A proxy may cut or keep back every stream, or know none.
        if (polls || failures >= 3) await this.#poll(control.signal);
        else await this.#listen(control.signal, () => (failures = 0));
      } catch (err) {
        if (control.signal.aborted) break;
        if (err.class === "unauthorized") {
          for (const id of [...this.#waiting.keys()]) this.#tell(id, (entry) => entry.reject(err));
          break;
        }
        polls ||= err.class === "invalid";
      }
      if (control.signal.aborted) break;
      await pause(pauseAfter(++failures, { first: 500 }), control.signal).catch(() => {});
    }
    if (this.#control === control) this.#control = null;
    this.#after = undefined;
    if (!this.#control && this.#waiting.size > 0) this.#run(); // somebody came while this was ending
  }

  async #listen(signal, opened) {
    const open = this.#options.push === "socket" ? socket : serverSent;
    for await (const { type, id, position } of open(this.#exchange, { after: this.#after, silence: this.#options.silence, signal })) {
      const first = this.#after === undefined;
      if (position !== undefined) this.#after = position;
      if (id) this.#tell(id);
      if (type === "ready") opened();
      // From here on the stream tells of every end. What ended before, nobody tells.
      if (type === "resync" || (type === "ready" && first)) for (const one of this.#waiting.keys()) this.#look(one);
    }
  }

  /** Looks once; trouble is left to the stream, which has the same. */
  async #look(id) {
    try {
      await this.#ask(id, 0);
    } catch {
      // The stream will tell, or look again when it is opened again.
    }
  }

  async #poll(signal) {
    while (!signal.aborted) {
      for (const id of [...this.#waiting.keys()]) await this.#ask(id, this.#waiting.size > 1 ? 1 : 20, signal);
      await pause(250, signal).catch(() => {}); // should nobody follow the preference
    }
  }

  async #ask(id, wait, signal) {
    const headers = wait > 0 ? { Prefer: `wait=${wait}` } : {};
    const answer = await this.#exchange.ask("GET", `/operations/${encodeURIComponent(id)}`, { headers, signal });
    if (answer.status === 401 || answer.status === 429 || answer.status >= 500) {
      throw new SendError(answer.status === 401 ? "unauthorized" : "server", `asking for the outcome was answered with ${answer.status}`, { status: answer.status, operation: id });
    }
    // Whatever else it says of this one, the command itself gets a better answer.
    if (answer.status !== 200 || JSON.parse(answer.text).done) this.#tell(id);
  }
}
