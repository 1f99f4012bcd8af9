import * as curl from "./curl.js";
import * as live from "./live.js";
import * as money from "./money.js";
import * as render from "./render.js";
import { newKey } from "/js/semel.js";
import { send, sides, submit, unfinished } from "./sender.js";
import * as switches from "./switches.js";
import { happened, verdict } from "./words.js";

const $ = (id) => document.getElementById(id);

// After the outcome stands on the page, the intention stays open for as long
// as a person needs to see it: the second half of a double click must not
// become a second withdrawal.
const timeToSee = 900;

let state = null; // the last known state of the demo
let click = null; // the last intention and everything known of its tries
let closing = 0;

const refresh = live.follow(
  (s) => {
    state = s;
    switches.show(s.switches, s.worker);
    show();
    resume();
  },
  (gone) => {
    $("gone").hidden = !gone;
    document.body.classList.toggle("stale", gone);
    if (gone) render.workerUnknown();
  },
);

function show() {
  if (!state) return;
  render.state(state, click?.key);
  for (const side of Object.keys(sides)) {
    const v = verdict(side, click, state);
    const el = render.part(side, "verdict");
    render.say(el, v.words);
    el.dataset.tone = v.tone;
    $(side).dataset.tone = v.tone;
    if (click) render.tries(side, click.tries[side].map((t) => ({ ...t, clicks: click.clicks })));
  }
  button();
  if (!click) return;
  const h = happened(click, state);
  tell(h);
  curl.show(click);
}

function tell({ head, detail, tone }) {
  const el = $("happened");
  el.parentElement.dataset.tone = tone;
  const text = JSON.stringify([head, detail]);
  if (el.dataset.said === text) return; // a live region speaks at every change
  el.dataset.said = text;
  const strong = head.flatMap((h) => [render.make("strong", { "data-tone": h.tone }, h.words), " "]);
  el.replaceChildren(...strong, render.make("span", {}, detail));
}

function button() {
  const b = $("withdraw");
  const open = click?.open ?? false;
  b.dataset.busy = open && click.pending > 0;
  $("stage").dataset.busy = b.dataset.busy;
  let words = "Withdraw";
  try {
    words = `Withdraw ${money.format(money.parse($("amount").value))}`;
  } catch {
    // What is wrong is said when the button is pressed.
  }
  if (open && click.pending > 0) words = `Withdrawing ${money.format(click.cents)}…`;
  else if (open && click.end.protected === "unknown") words = "Try again, same key";
  else if (open && click.end.protected !== "rejected") words = `Withdrawn ${money.format(click.cents)}`;
  render.say(b, words);
  $("amount").readOnly = open;
  $("again").hidden = !click || open;
  if (click) render.say($("key-words"), open ? `Key ${click.key.slice(0, 8)}… until the outcome is shown` : `Last key: ${click.key.slice(0, 8)}…`);
}

/** One press of the button: a new intention, or one more send of the open one. */
function press() {
  $("amount-error").textContent = "";
  if (click?.open) {
    fire();
    return;
  }
  try {
    start({ key: newKey(), cents: money.parse($("amount").value).toString() });
  } catch (err) {
    $("amount-error").textContent = err.message;
    $("amount").focus();
  }
}

function start(intention, more) {
  if (!state) return;
  click = {
    ...intention,
    ...more,
    open: true,
    settled: false,
    pending: 0,
    clicks: 0,
    tries: { protected: [], naive: [] },
    end: {},
    account: { protected: state.protected.account, naive: state.naive.account },
    before: { protected: state.protected.balance, naive: state.naive.balance, restarts: state.worker.restarts },
  };
  fire();
}

// Sends the open intention to both accounts, whatever is still under way.
function fire() {
  const mine = click;
  clearTimeout(closing);
  const number = ++mine.clicks;
  mine.settled = false;
  mine.pending++;
  Promise.all(Object.keys(sides).map((side) => one(mine, side, number))).then(() => settle(mine));
  show();
}

async function one(mine, side, number) {
  const onTry = (t) => {
    const tries = mine.tries[side];
    const i = tries.findIndex((x) => x.click === number && x.number === t.number);
    const entry = { click: number, number: t.number, what: t.what, words: t.words };
    if (i < 0) tries.push(entry);
    else tries[i] = entry;
    if (mine === click) show();
  };
  // One intention is submitted once; whatever else is pressed repeats it on purpose.
  const first = side === "protected" && number === 1 && (mine.resumed || !(mine.repeated || mine.altered));
  note(mine, side, await (first ? submit(mine, onTry, (end) => late(mine, end)) : send(side, mine, onTry)));
}

// The tries were used up and the page said so; then the queue got an answer.
function late(mine, end) {
  if (mine.end.protected !== "unknown") return;
  note(mine, "protected", end);
  mine.pending++;
  settle(mine);
}

function note(mine, side, end) {
  // The outcome of a side is that of its luckiest send; all sends of the
  // protected side agree, which is the point.
  if (!mine.end[side] || mine.end[side] === "unknown") mine.end[side] = end.what;
  if (side === "protected" && end.what !== "unknown") {
    mine.answer = end;
    mine.reason = end.what === "rejected" ? end.words : undefined;
  }
}

async function settle(mine) {
  mine.pending--;
  if (mine.pending > 0) return;
  await refresh();
  mine.settled = true;
  if (mine !== click) return;
  show();
  if (mine.end.protected === "unknown") return; // stays open: the same key, until somebody knows
  closing = setTimeout(() => {
    mine.open = false;
    show();
  }, timeToSee);
}

// A reload in the middle of a withdrawal: the key was stored before the first
// send, so the client carries on, and the page shows it.
let resumed = false;
async function resume() {
  if (resumed) return;
  resumed = true;
  const left = await unfinished();
  if (left && !click) start(left, { resumed: true, repeated: state.protected.operations?.some((o) => o.key === left.key) });
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  press();
});
$("amount").addEventListener("input", button);
for (const b of document.querySelectorAll("[data-amount]")) {
  b.addEventListener("click", () => {
    if (click?.open) return;
    $("amount").value = b.dataset.amount;
    $("amount-error").textContent = "";
    button();
  });
}
// What the key of the last click was made for, whatever was tried with it since.
function original() {
  return click.first ?? { key: click.key, cents: click.cents };
}

$("repeat").addEventListener("click", () => {
  const first = original();
  start(first, { repeated: true, first });
});
$("alter").addEventListener("click", () => {
  const first = original();
  start({ key: first.key, cents: (BigInt(first.cents) + 100n).toString() }, { altered: true, first });
});
switches.wire(refresh);
curl.wire();
button();
