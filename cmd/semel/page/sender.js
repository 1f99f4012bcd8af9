// Both accounts get the same client, with the same tries; what differs is what
// the other side does with the key. The protected side's first send goes
// through the client's queue, so it carries on when the page is loaded again.
import { Rejected, SendErrors, createClient, memoryStore } from "/js/semel.js";

export const maxTries = 8;

export const sides = {
  protected: (account, key) => `/bank/accounts/${encodeURIComponent(account)}/withdrawals/${encodeURIComponent(key)}`,
  naive: (account, key) => `/naive/accounts/${encodeURIComponent(account)}/withdrawals/${encodeURIComponent(key)}`,
};

const options = {
  principal: "visitor",
  authorize: () => "Bearer visitor",
  patience: 8000, // milliseconds for one try
  retry: { first: 120, most: 2000 },
};

export const bank = createClient({ base: "/bank", ...options });
const clients = { protected: bank, naive: createClient({ base: "/naive", ...options, store: memoryStore() }) };

const route = (account) => ({ method: "PUT", path: `/accounts/${encodeURIComponent(account)}/withdrawals/{key}` });

// The amount as text: int64 on the other side, and more than a double holds.
const encode = (cents) => `{"cents":${cents}}`;

/** What is under way since before the page was loaded, or null. */
export async function unfinished() {
  const [oldest] = await bank.pending();
  const cents = oldest && /^\{"cents":([1-9]\d*)\}$/.exec(oldest.body)?.[1];
  return cents ? { key: oldest.key, cents } : null;
}

/**
 * Sends until an answer comes or the tries are used up. onTry is called with
 * {number, what, words} when a try begins ("sending") and when it ends
 * ("done", "replayed", "rejected", "lost", "again"). Resolves to the last
 * try's end with the answer's status and text; "unknown" if none came.
 */
export function send(side, { account, key, cents }, onTry) {
  return end(clients[side].send(route(account[side]), encode(cents), { key, tries: maxTries, onTry: (t) => onTry(tell(t)) }));
}

/** The same for an intention of the protected side, which is stored first. After the last try the queue goes on: onLate is called with the end that comes in any case. */
export async function submit({ account, key, cents }, onTry, onLate) {
  let lost = 0;
  let giveUp;
  const unknown = new Promise((resolve) => (giveUp = () => resolve({ what: "unknown" })));
  const off = bank.on("try", (t) => {
    if (t.key !== key) return;
    onTry(tell(t));
    if (t.what === "failed" && ++lost === maxTries) giveUp();
  });
  const intention = await bank.submit(route(account.protected), encode(cents), { key });
  const known = end(intention.outcome());
  known.then(off);
  known.then(onLate);
  return Promise.race([known, unknown]);
}

async function end(outcome) {
  try {
    const { status, text, replayed } = await outcome;
    return { what: replayed ? "replayed" : "done", status, text, replayed };
  } catch (err) {
    if (err instanceof Rejected) return { what: "rejected", words: `${err.status} ${err.reason}`, status: err.status, text: err.text, replayed: err.replayed };
    const last = err instanceof SendErrors ? err.errors.at(-1) : err;
    const { what, words } = failure(last);
    return { what: what === "rejected" ? what : "unknown", words, status: last.status, text: last.text };
  }
}

function tell({ number, what, outcome, error }) {
  if (error) return { number, ...failure(error) };
  if (what === "sending") return { number, what, words: "under way" };
  if (what === "accepted") return { number, what: "again", words: "accepted, still running" };
  if (what !== "completed") return { number, what: "rejected", words: `${outcome.status} ${outcome.reason || "refused"}` };
  return outcome.replayed ? { number, what: "replayed", words: `${outcome.status}, stored answer` } : { number, what: "done", words: `${outcome.status}, done` };
}

function failure({ class: kind, status, text }) {
  if (kind === "timeout" && !status) return { what: "lost", words: "no answer in time" };
  if (!status) return { what: "lost", words: "connection lost" };
  if (status === 429 || status >= 500) return { what: "again", words: `${status}, try again` };
  return { what: "rejected", words: `${status} ${reason(text)}` };
}

function reason(text) {
  try {
    const p = JSON.parse(text);
    return p.detail || p.title || "refused";
  } catch {
    return text.trim().slice(0, 120) || "refused";
  }
}
