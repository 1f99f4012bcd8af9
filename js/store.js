// Where intentions outlive the page. A store has three members: scope says who
// else sees it ("origin", "machine" or "none"), all() resolves to what is kept,
// oldest first, and update(id, change) replaces one record by what change makes
// of it, atomically; undefined means that there is none.

/** The safest store that this browser lets us have. Says so loudly if it is not IndexedDB. */
export async function openStore(name, warn = (words) => console.warn(words)) {
  let why = "there is none";
  try {
    if (globalThis.indexedDB) return await indexed(name);
  } catch (err) {
    why = err.message;
  }
  const problem = `semel: IndexedDB cannot be used (${why}):`;
  try {
    const store = local(name, globalThis.localStorage);
    warn(`${problem} intentions are kept in localStorage, which is written some time after they are sent`);
    return store;
  } catch {
    warn(`${problem} intentions are kept in memory and are LOST when this page or process ends`);
    return memoryStore();
  }
}

const byAge = (a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1);

export function memoryStore() {
  const records = new Map();
  return {
    kind: "memory",
    scope: "none",
    all: async () => [...records.values()].sort(byAge),
    update: async (id, change) => {
      const next = change(records.get(id));
      if (next === undefined) records.delete(id);
      else records.set(id, next);
      return next;
    },
  };
}

async function indexed(name) {
  let db = null;
  const open = () =>
    new Promise((resolve, reject) => {
      const asked = indexedDB.open(name, 1);
      asked.onupgradeneeded = () => asked.result.createObjectStore("intentions", { keyPath: "id" });
      asked.onerror = () => reject(asked.error);
      asked.onblocked = () => reject(new Error("another version of the page has it open"));
      asked.onsuccess = () => {
        const forget = () => (db = null);
        asked.result.onclose = forget; // the visitor cleared the site's data
        asked.result.onversionchange = () => {
          asked.result.close();
          forget();
        };
        resolve(asked.result);
      };
    });
  const within = async (mode, act) => {
    db ??= open();
    let opened;
    try {
      opened = await db;
    } catch (err) {
      db = null;
      throw err;
    }
    return new Promise((resolve, reject) => {
      // Strict: what is said to be stored survives a power cut.
      const tx = opened.transaction("intentions", mode, { durability: "strict" });
      let result;
      tx.oncomplete = () => resolve(result);
      tx.onabort = () => reject(tx.error ?? new Error("the transaction was aborted"));
      act(tx.objectStore("intentions"), (value) => (result = value));
    });
  };
  const store = {
    kind: "indexeddb",
    scope: "origin",
    all: async () => (await within("readonly", (s, found) => (s.getAll().onsuccess = (e) => found(e.target.result)))).sort(byAge),
    update: (id, change) =>
      within("readwrite", (s, found) => {
        s.get(id).onsuccess = (e) => {
          const had = e.target.result;
          const next = change(had);
          found(next);
          if (next === undefined) s.delete(id);
          else if (next !== had) s.put({ ...next, id });
        };
      }),
  };
  await store.update("probe", () => undefined); // private windows of some browsers open it and refuse to write
  return store;
}

function local(name, storage) {
  const place = (id) => `${name}\n${id}`;
  storage.setItem(place("probe"), "");
  storage.removeItem(place("probe"));
  return {
    kind: "localstorage",
    scope: "origin",
    all: async () =>
      Object.keys(storage)
        .filter((k) => k.startsWith(place("")))
        .map((k) => JSON.parse(storage.getItem(k)))
        .sort(byAge),
    update: async (id, change) => {
      const next = change(JSON.parse(storage.getItem(place(id))) ?? undefined);
      if (next === undefined) storage.removeItem(place(id));
      else storage.setItem(place(id), JSON.stringify({ ...next, id }));
      return next;
    },
  };
}
