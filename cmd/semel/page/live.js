// The page's view of the demo: fetched whole, again whenever the server says
// that something changed. Many changes in a row cost one fetch at a time.

const quiet = 60; // milliseconds between two fetches
const patience = 8000;

/** Calls onState with every new state and onGone(true | false) when the server goes and comes. */
export function follow(onState, onGone) {
  let dirty = false;
  let reading = null;
  let gone = false;

  const tell = (now) => {
    if (now === gone) return;
    gone = now;
    onGone(gone);
  };

  async function catchUp() {
    while (dirty) {
      dirty = false;
      const state = await read();
      tell(state === null);
      if (state !== null) onState(state);
      await new Promise((resolve) => setTimeout(resolve, quiet));
    }
    reading = null;
  }

  // Resolves when a state that was asked for after this call has been shown.
  function refresh() {
    dirty = true;
    reading ??= catchUp();
    return reading;
  }

  listen(refresh, tell);
  refresh();
  return refresh;
}

async function read() {
  try {
    const response = await fetch("/demo/state", { cache: "no-store", signal: AbortSignal.timeout(patience) });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

// An EventSource comes back by itself after a lost connection, but not after an
// error status, and its own pause is the browser's choice: so it is made anew.
function listen(refresh, tell) {
  let tries = 0;
  const connect = () => {
    const source = new EventSource("/demo/events");
    source.addEventListener("open", () => {
      tries = 0;
      refresh();
    });
    source.addEventListener("changed", refresh);
    source.addEventListener("error", () => {
      source.close();
      // A stream may also end in good order; the server is gone only if the
      // next one cannot be opened.
      if (tries++ > 0) tell(true);
      setTimeout(connect, Math.random() * Math.min(4000, 250 * 2 ** tries));
    });
  };
  connect();
}

export async function setSwitches(switches) {
  await ask("PUT", "/demo/switches", switches);
}

export async function kill(when) {
  await ask("POST", "/demo/kill", { when });
}

async function ask(method, url, value) {
  const response = await fetch(url, {
    method,
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(value),
    signal: AbortSignal.timeout(patience),
  });
  if (!response.ok) throw new Error((await response.text()).trim() || `status ${response.status}`);
}
