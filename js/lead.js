// Of all tabs (or processes) that share a store, one sends at a time. That two
// of them send for a moment does no harm: the server takes a key once. So the
// lead can be taken over from a tab that is frozen, without being sure.
import { newKey } from "./exchange.js";

const unheard = 3000; // milliseconds after which a silent leader is replaced

/** Returns {leading, want, heard, close}; onChange is called with whether this tab leads. */
export function lead(name, store, { onChange, poke, lease = 6000 }) {
  if (store.scope === "none") {
    queueMicrotask(() => onChange(true));
    return { leading: () => true, want() {}, heard() {}, close() {} };
  }
  return store.scope === "origin" && globalThis.navigator?.locks ? byLock(name, onChange, poke) : byLease(store, onChange, lease);
}

function byLock(name, onChange, poke) {
  let leading = false;
  let release = () => {};
  let closed = false;
  let queued = new AbortController();
  let asked = 0;

  async function hold(steal) {
    const options = steal ? { steal } : { signal: queued.signal };
    try {
      await navigator.locks.request(name, options, () => {
        if (closed) return undefined;
        leading = true;
        onChange(true);
        return new Promise((resolve) => (release = resolve));
      });
    } catch (err) {
      if (err.name !== "AbortError") throw err;
      if (!leading) return; // it stood in the queue, and is not needed there
    }
    leading = false;
    if (closed) return;
    onChange(false); // stolen
    queued = new AbortController();
    hold(false);
  }

  function steal() {
    asked = 0;
    if (leading || closed) return;
    queued.abort();
    hold(true);
  }

  hold(false);
  return {
    leading: () => leading,
    // Called where there is something to send: the leader answers, or loses the lead.
    want() {
      if (leading || asked) return;
      asked = setTimeout(steal, unheard);
      poke();
    },
    heard() {
      clearTimeout(asked);
      asked = 0;
    },
    close() {
      closed = true;
      clearTimeout(asked);
      queued.abort();
      release();
    },
  };
}

// Without Web Locks: processes, and pages without TLS.
function byLease(store, onChange, lease) {
  const me = newKey();
  let leading = false;
  const renew = async () => {
    const now = Date.now();
    const take = (r) => (r && r.holder !== me && r.until > now ? r : { id: "lease", holder: me, until: now + lease });
    const found = await store.update("lease", take).catch(() => undefined);
    // Where the store cannot be written, nothing is sent by anybody.
    if ((found?.holder === me) === leading) return;
    leading = !leading;
    onChange(leading);
  };
  const timer = setInterval(renew, lease / 3);
  timer.unref?.();
  renew();
  return {
    leading: () => leading,
    want() {},
    heard() {},
    close() {
      clearInterval(timer);
      if (leading) store.update("lease", (r) => (r?.holder === me ? undefined : r)).catch(() => {});
      leading = false;
    },
  };
}
