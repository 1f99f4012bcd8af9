// The row of faults: what the visitor sets goes to the server at once; what
// the server says is what stands.
import * as live from "./live.js";

const $ = (id) => document.getElementById(id);

let sending = 0;
let armedAt = null; // number of restarts when a kill was asked for

export function show(s, worker) {
  if (sending === 0 && s) {
    choose("duplicate", Math.max(1, s.duplicate ?? 1));
    choose("delay", s.delayMs ?? 0);
    $("lose-request").checked = Boolean(s.loseRequest);
    $("lose-reply").checked = Boolean(s.loseReply);
  }
  mark();
  if (armedAt !== null && worker.restarts > armedAt) {
    armedAt = null;
    words(`Killed. Process ${worker.pid} has taken over.`);
  }
  show.restarts = worker.restarts;
}

function choose(name, value) {
  for (const input of document.getElementsByName(name)) input.checked = Number(input.value) === value;
}

const chosen = (name) => Number([...document.getElementsByName(name)].find((i) => i.checked)?.value ?? 0);

function mark() {
  $("duplicate").classList.toggle("on", chosen("duplicate") > 1);
  $("delay").classList.toggle("on", chosen("delay") > 0);
  for (const id of ["lose-request", "lose-reply"]) $(id).closest(".tile").classList.toggle("on", $(id).checked);
}

function words(text) {
  $("kill-words").textContent = text;
}

export function wire(refresh) {
  const set = async () => {
    mark();
    await attempt(refresh, () =>
      live.setSwitches({
        duplicate: chosen("duplicate"),
        loseRequest: $("lose-request").checked,
        loseReply: $("lose-reply").checked,
        delayMs: chosen("delay"),
      }),
    );
  };
  for (const input of document.querySelectorAll(".tiles input")) input.addEventListener("change", set);

  for (const b of document.querySelectorAll("[data-kill]")) {
    b.addEventListener("click", () => {
      armedAt = show.restarts ?? 0;
      const now = b.dataset.kill === "now";
      words(now ? "Killing it…" : "Armed: the next withdrawal kills it between its statements and COMMIT.");
      attempt(refresh, async () => {
        try {
          await live.kill(b.dataset.kill);
        } catch (err) {
          armedAt = null;
          words("It was not killed.");
          throw err;
        }
      });
    });
  }
}

async function attempt(refresh, act) {
  sending++;
  $("fault-error").textContent = "";
  try {
    await act();
  } catch (err) {
    $("fault-error").textContent = `That did not work: ${err.message}.`;
  } finally {
    sending--;
    refresh();
  }
}
