// Plain language for what happened. These functions only choose words: they
// take what the page knows of the last click and of the state, and touch
// nothing.
import * as money from "./money.js";

const times = ["no times", "once", "twice", "three times", "four times", "five times", "six times", "seven times", "eight times", "nine times"];

export const often = (n) => times[n] ?? `${n} times`;
export const many = (n, one, more = `${one}s`) => `${n} ${n === 1 ? one : more}`;

/** What one click has done to both accounts, counted from the state. */
export function count(click, state) {
  const operation = state.protected.operations.find((o) => o.key === click.key);
  const paid = (from, to) => {
    const gone = money.cents(from) - money.cents(to);
    return gone <= 0n ? 0 : Number(gone / BigInt(click.cents));
  };
  return {
    operation,
    arrived: operation ? 1 + (operation.replays ?? 0) : 0,
    protected: paid(click.before.protected, state.protected.balance),
    naive: paid(click.before.naive, state.naive.balance),
    restarts: state.worker.restarts - click.before.restarts,
  };
}

/** A headline of one or two parts, each with its tone, and a sentence or two of detail. */
export function happened(click, state) {
  const n = count(click, state);
  if (!click.settled) return underWay(click);
  const amount = money.format(click.cents);
  return { ...headline(click, n, amount), detail: detail(click, n) };
}

function underWay(click) {
  const last = Math.max(...click.tries.protected.map((t) => t.number), ...click.tries.naive.map((t) => t.number), 1);
  const failed = [...click.tries.protected, ...click.tries.naive].find((t) => t.what === "lost" || t.what === "again");
  return {
    tone: "calm",
    head: [calm(last > 1 ? `Under way, try ${last} with the same key.` : "Under way.")],
    detail: failed ? `A try ended with "${failed.words}". Nobody can tell from outside whether the money moved, so the page asks again.` : "The same request went to both accounts.",
  };
}

const calm = (words) => ({ tone: "calm", words });
const good = (words) => ({ tone: "good", words });
const bad = (words) => ({ tone: "bad", words });

function headline(click, n, amount) {
  const twin = n.naive === 0 ? calm("Naive twin: nothing paid.") : bad(`Naive twin: paid ${often(n.naive)}${click.repeated || click.altered ? " more" : ""}.`);
  if (click.altered) return said(calm("Protected: refused, this key stands for another amount."), twin);
  if (click.end.protected === "unknown") return said(calm("No answer within eight tries. The key is kept: press again."));
  if (click.repeated && n.protected === 0) return said(good("Protected: the stored answer, nothing more paid."), twin);
  if (click.end.protected === "rejected" && n.protected === 0) return said(calm("Protected: refused, and every repeat gets the same refusal."), n.naive > 1 ? twin : null);
  if (n.naive > 1) return said(good("Protected: paid once."), twin);
  if (n.naive === 0 && n.protected === 1) return said(good(`Protected: paid ${amount} once.`), twin);
  return said(good(`One withdrawal of ${amount} on both sides.`));
}

function said(...head) {
  const parts = head.filter(Boolean);
  return { head: parts, tone: parts.at(-1).tone };
}

function detail(click, n) {
  const parts = [];
  const cents = BigInt(click.cents);
  if (click.altered) {
    parts.push("A key stands for one request. With other contents it is a mistake that must be heard of, not a repeat: the answer is 422 and no money moves.");
    if (n.naive > 0) parts.push(`The naive twin simply paid ${money.format(BigInt(n.naive) * cents)} more.`);
    return parts.join(" ");
  }
  const failed = click.tries.protected.filter((t) => t.what === "lost" || t.what === "again").length;
  if (click.clicks > 1) parts.push(`You clicked ${often(click.clicks)}.`);
  if (n.restarts > 0) parts.push("The worker was killed meanwhile; what it had not committed went with it, and the next process took over.");
  if (failed > 0) parts.push(`${many(failed, "try", "tries")} brought no answer, so the page sent the same key again.`);
  if (!click.repeated && n.arrived > 1) {
    const rest = n.arrived === 2 ? "the repeat" : `${n.arrived - 1} repeats`;
    parts.push(`${n.arrived} requests with one key were answered by the protected account: one paid, ${rest} got the stored answer.`);
  }
  const extra = n.naive - (click.repeated ? 0 : 1);
  if (extra > 0) parts.push(`The naive twin took every request for a new one: ${money.format(BigInt(extra) * cents)} too much.`);
  if (parts.length === 0) parts.push("Nothing went wrong this time, so the twin was lucky. Switch on a fault.");
  if (click.reason) parts.push(`The answer was ${click.reason}.`);
  return parts.join(" ");
}

/** The line under each balance. */
export function verdict(side, click, state) {
  if (!click) return { tone: "calm", words: "No click yet" };
  const n = count(click, state);
  const paid = n[side];
  const sum = money.format(-BigInt(click.cents) * BigInt(paid));
  const allowed = click.repeated || click.altered ? 0 : 1;
  if (paid > allowed) {
    const words = allowed === 0 ? `${sum}: paid again, for a repeat` : `${sum}: paid ${often(paid)} for one intention`;
    return { tone: "bad", words };
  }
  if (paid === 1) return { tone: "good", words: click.tries[side].length > 1 || n.arrived > 1 ? `${sum}: paid once` : sum };
  if (!click.settled) return { tone: "calm", words: "Under way…" };
  if (click.end[side] === "rejected") return { tone: "calm", words: "Refused; nothing paid" };
  if (click.end[side] === "unknown") return { tone: "calm", words: "No answer yet" };
  return { tone: "calm", words: allowed === 0 ? "Nothing paid again" : "Nothing paid" };
}
