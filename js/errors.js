// Errors say what is known, not that nothing happened: after a lost reply only
// the same key, sent again, tells what became of a command.

const passing = new Set(["refused", "reset", "dns", "connection", "timeout", "throttled", "server", "malformed"]);

/** Whether a failure of the class may pass by itself. */
export const passes = (kind) => passing.has(kind);

/** The business's no: an outcome, answered to every repeat. */
export class Rejected extends Error {
  constructor({ code, reason, status, key, operation, body, text, replayed }) {
    super(reason || code || "rejected");
    Object.assign(this, { name: "Rejected", code, reason, status, key, operation, body, text, replayed });
  }
}

/** One way in which sending failed; count is how many tries failed so. */
export class SendError extends Error {
  constructor(kind, message, known = {}) {
    super(message, known.cause === undefined ? undefined : { cause: known.cause });
    const { status = 0, type = "", key = "", operation = "", count = 1, kept = false, retryAfter = 0, text = "" } = known;
    Object.assign(this, { name: "SendError", class: kind, status, type, key, operation, count, kept, retryAfter, text });
  }

  has(kind) {
    return this.class === kind;
  }
}

/** What tries come to that failed in different ways; errors has one for each. */
export class SendErrors extends AggregateError {
  constructor(distinct, tries) {
    const said = distinct.map((e) => `${e.message} (×${e.count})`).join("; ");
    super(distinct, `${tries} tries failed: ${said}`);
    const last = distinct.at(-1);
    Object.assign(this, { name: "SendErrors", tries, class: last.class, key: last.key, operation: last.operation, kept: last.kept });
  }

  has(kind) {
    return this.errors.some((e) => e.class === kind);
  }
}

/** Failures of one series of tries, each distinct one once. */
export class Tally {
  tries = 0;
  distinct = [];

  add(failed) {
    this.tries++;
    const same = this.distinct.find((e) => e.class === failed.class && e.message === failed.message);
    if (!same) {
      this.distinct.push(failed);
      return;
    }
    same.count++;
    // The latest stands at the end: it is the one that decided.
    this.distinct.push(...this.distinct.splice(this.distinct.indexOf(same), 1));
  }

  /** How many tries failed so. */
  count(kind) {
    return this.distinct.reduce((sum, e) => sum + (e.class === kind ? e.count : 0), 0);
  }

  error() {
    return this.distinct.length === 1 ? this.distinct[0] : new SendErrors(this.distinct, this.tries);
  }
}

/** The parts of an error that can be stored and sent to other tabs. */
export function flatten(err) {
  return (err.errors ?? [err]).map(({ class: kind, message, status, type, key, operation, count, text }) => ({ class: kind, message, status, type, key, operation, count, text }));
}

export function unflatten(flat) {
  const tally = new Tally();
  for (const { class: kind, message, ...known } of flat) {
    tally.add(new SendError(kind, message, known));
    tally.tries += known.count - 1;
  }
  return tally.error();
}
