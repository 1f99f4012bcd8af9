// From the state to the document. Text goes in as text, never as markup.
import * as money from "./money.js";
import { many } from "./words.js";

const $ = (id) => document.getElementById(id);

/** Makes an element: make("li", {class: "x"}, "text", child). */
export function make(tag, attributes, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== false) el.setAttribute(name, value === true ? "" : value);
  }
  el.append(...children.filter((c) => c !== undefined && c !== null && c !== ""));
  return el;
}

export function icon(name, extra = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", `line ${extra}`.trim());
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Sets text only when it differs, so that live regions stay quiet. */
export function say(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

export function part(side, name) {
  return $(side).querySelector(`[data-part=${name}]`);
}

export function state(s, ownKey) {
  balance("protected", s.protected.balance);
  balance("naive", s.naive.balance);
  worker(s.worker);
  counters(s);
  operations(s.protected.operations ?? [], ownKey);
  invariants(s.protected.invariants ?? []);
  ledger(s.protected.ledger ?? [], s.protected.operations ?? [], ownKey);
  entries(s.naive);
}

function balance(side, cents) {
  const el = part(side, "balance");
  const text = money.format(cents);
  if (el.textContent === text) return;
  const first = el.textContent === "–";
  el.textContent = text;
  if (!first) restart(el, "moved");
}

// Runs a CSS animation from its start.
function restart(el, name) {
  el.classList.remove(name);
  void el.offsetWidth;
  el.classList.add(name);
}

function worker(w) {
  $("worker").dataset.up = w.up ? "yes" : "no";
  const words = w.up ? `Worker ${w.pid} up` : "Worker down, a new one is starting";
  say($("worker-words"), w.restarts > 0 ? `${words}, ${many(w.restarts, "restart")}` : words);
}

export function workerUnknown() {
  $("worker").dataset.up = "unknown";
  say($("worker-words"), "Worker not seen");
}

function counters(s) {
  for (const el of document.querySelectorAll("[data-count]")) {
    say(el, String(s.counts[el.dataset.count] ?? "–"));
  }
  for (const tile of document.querySelectorAll(".counters .zero")) {
    tile.classList.toggle("broken", tile.querySelector("[data-count]").textContent !== "0");
  }
  const n = s.naive.doubleEffects ?? 0;
  say($("naive-doubles"), `naive twin: ${n}`);
  $("naive-doubles").classList.toggle("bad", n > 0);
}

// Lists keep an element per id and rebuild it only when its content differs,
// so that what is open, focused or selected stays so.
function list(parent, items, id, build) {
  parent.shown ??= new Map();
  const seen = new Set();
  let before = null;
  for (const item of items) {
    const key = id(item);
    seen.add(key);
    const text = JSON.stringify(item);
    let entry = parent.shown.get(key);
    if (!entry || entry.text !== text) {
      const el = build(item, entry?.el);
      if (entry) entry.el.replaceWith(el);
      else el.classList.add("new");
      entry = { text, el };
      parent.shown.set(key, entry);
    }
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== entry.el) parent.insertBefore(entry.el, place);
    before = entry.el;
  }
  for (const [key, entry] of parent.shown) {
    if (seen.has(key)) continue;
    entry.el.remove();
    parent.shown.delete(key);
  }
}

const badge = {
  accepted: "accepted, waiting its turn",
  running: "running",
  waiting: "waiting to be tried again",
  executed: "paid, not yet on the statement",
  completed: "completed",
  rejected: "rejected",
  failed: "failed, kept as a dead letter",
  canceled: "canceled",
  unknown: "not at the bank yet",
};

const stamp = (t) => (t ? Date.parse(t) : Number.NaN);

function operations(items, ownKey) {
  $("operations-empty").hidden = items.length > 0;
  const newest = items.toSorted((a, b) => (stamp(b.acceptedAt) || 0) - (stamp(a.acceptedAt) || 0));
  list($("operations"), newest.map((o) => ({ ...o, own: o.key === ownKey })), (o) => o.id, operation);
}

// What the visitor opened or closed stays so; the last click's operation is
// open without being asked.
const wanted = new Map();

function operation(o, old) {
  const open = wanted.get(o.id) ?? o.own;
  const had = old?.contains(document.activeElement);
  const summary = make(
    "summary",
    {},
    icon("chevron"),
    make("span", { class: "what" }, o.cents ? `${o.name} ${money.format(o.cents)}` : o.name),
    make("span", { class: `state ${o.state}` }, badge[o.state] ?? o.state),
    make("code", { class: "key", title: `key ${o.key}` }, short(o.key)),
    make("span", { class: "facts" }, facts(o)),
  );
  summary.addEventListener("click", () => wanted.set(o.id, !details.open));
  const details = make("details", { open }, summary, timeline(o), make("p", { class: "ids" }, "operations/", make("wbr"), o.id));
  if (had) queueMicrotask(() => summary.focus());
  return make("li", { class: o.own ? "own" : undefined }, details);
}

function facts(o) {
  const f = [];
  if (o.attempts > 1) f.push(many(o.attempts, "attempt"));
  if (o.replays > 0) f.push(`${many(o.replays, "replay")} absorbed`);
  return f.join(" · ") || (o.own ? "your last click" : "no repeats");
}

function timeline(o) {
  const start = stamp(o.timeline?.[0]?.at ?? o.acceptedAt);
  const steps = (o.timeline ?? []).map((t) => {
    const since = stamp(t.at) - start;
    const when = Number.isFinite(since) ? `+${since < 10000 ? `${Math.round(since)} ms` : `${(since / 1000).toFixed(1)} s`}` : "";
    return make("li", { class: kind(t.what) }, make("span", { class: "step" }, t.what), make("time", { datetime: t.at, title: t.at }, when));
  });
  return make("ol", { class: "timeline" }, ...steps);
}

// Only the look depends on it: replays are greyed, faults stand out.
function kind(what) {
  if (/replay|repeat|stored answer|duplicate/i.test(what)) return "replay";
  if (/kill|lost|broke|down|expired|fail|reject/i.test(what)) return "fault";
  if (/execut|commit|complet|paid|done/i.test(what)) return "effect";
  return "step";
}

const short = (s) => (s && s.length > 13 ? `${s.slice(0, 8)}…` : (s ?? ""));

function invariants(items) {
  list($("invariants"), items, (v) => v.name, (v) =>
    make("li", { class: v.ok ? "ok" : "broken" }, icon(v.ok ? "ok" : "no"), make("span", {}, make("b", {}, v.name), make("span", { class: "visually-hidden" }, v.ok ? ", holds" : ", broken"), v.detail ? make("small", {}, v.detail) : "")),
  );
}

function ledger(items, all, ownKey) {
  $("ledger-empty").hidden = items.length > 0;
  $("ledger").hidden = items.length === 0;
  const own = all.find((o) => o.key === ownKey)?.id;
  // Numbered from the oldest within its operation: a second line of the same
  // operation, which must never be, still gets a row of its own.
  const seen = new Map();
  const rows = items.toReversed().map((e) => {
    const number = (seen.get(e.operation) ?? 0) + 1;
    seen.set(e.operation, number);
    return { ...e, number, own: e.operation === own };
  });
  list($("ledger").tBodies[0], rows.toReversed(), (e) => `${e.operation}/${e.number}`, (e) =>
    make("tr", { class: e.own ? "own" : undefined }, make("td", {}, make("code", { title: e.operation }, short(e.operation))), make("td", { class: "num" }, signed(e.cents)), make("td", { class: "num" }, money.format(e.balance))),
  );
}

function entries(naive) {
  const items = naive.entries ?? [];
  $("entries-empty").hidden = items.length > 0;
  $("entries").hidden = items.length === 0;
  const rows = items.map((e, i) => ({ ...e, number: e.number ?? items.length - i }));
  list($("entries").tBodies[0], rows, (e) => e.number, (e) => {
    const twice = e.duplicateOf !== undefined && e.duplicateOf !== null && e.duplicateOf !== "";
    return make("tr", { class: twice ? "twice" : undefined }, make("td", {}, twice ? make("span", { class: "double" }, icon("warn"), "paid again") : `#${e.number}`), make("td", { class: "num" }, signed(e.cents)), make("td", { class: "num" }, money.format(e.balance)));
  });
  const extra = rows.filter((e) => e.duplicateOf).reduce((sum, e) => sum + abs(money.cents(e.cents)), 0n);
  const n = naive.doubleEffects ?? 0;
  $("damage").hidden = n === 0;
  if (n > 0) say($("damage"), `${many(n, "double debit")}${extra > 0n ? `, ${money.format(extra)} too much` : ""}`);
}

const abs = (v) => (v < 0n ? -v : v);
const signed = (v) => (money.cents(v) > 0n ? `+${money.format(v)}` : money.format(v));

/** The chips of one side's tries, newest click last. */
export function tries(side, items) {
  const look = { sending: "sending", done: "ok", replayed: "ok", rejected: "no", lost: "no", again: "no" };
  list(part(side, "tries"), items, (t) => `${t.click}/${t.number}`, (t) =>
    make("li", { class: look[t.what] }, make("span", { class: "n" }, t.clicks > 1 ? `${t.click}.${t.number}` : String(t.number)), make("span", {}, t.words)),
  );
}
