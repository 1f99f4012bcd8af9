// The exact request of the last click, for a terminal.
import { sides } from "./sender.js";

const $ = (id) => document.getElementById(id);

export function show(click) {
  $("curl-code").hidden = false;
  $("curl-words").textContent = "The request of your last click. Run it as often as you like: it answers the same bytes, marked Idempotent-Replayed: true, and no money moves.";
  const url = location.origin + sides.protected(click.account.protected, click.key);
  const text = [
    `curl -i -X PUT ${quote(url)} \\`,
    "  -H 'Authorization: Bearer visitor' \\",
    "  -H 'Content-Type: application/json' \\",
    `  -d '{"cents":${click.cents}}'`,
  ].join("\n");
  set("curl", text);
  const a = click.answer;
  $("answer").parentElement.hidden = !a;
  if (a) set("answer", `HTTP ${a.status}${a.replayed ? "\nIdempotent-Replayed: true" : ""}\n\n${a.text.trim()}`);
}

function set(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

const quote = (s) => (/^[\w:/.%-]+$/.test(s) ? s : `'${s.replaceAll("'", "'\\''")}'`);

export function wire() {
  $("copy").addEventListener("click", async () => {
    let words = "Copied";
    try {
      await navigator.clipboard.writeText($("curl").textContent);
    } catch {
      getSelection().selectAllChildren($("curl"));
      words = "Selected";
    }
    $("copy").textContent = words;
    setTimeout(() => ($("copy").textContent = "Copy"), 1600);
  });
}
