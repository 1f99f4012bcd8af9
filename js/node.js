// A store for Node: a directory with one file for each intention, which also
// several processes can share.
import { createHash, randomUUID } from "node:crypto";
import { mkdir, open, readFile, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";

const ending = ".intention.json";

/** Opens the directory, which is made if it is missing. Bodies of commands are in it: keep it from other users. */
export function fileStore(dir) {
  const ready = mkdir(dir, { recursive: true, mode: 0o700 });
  let turn = ready; // one change at a time, so that none is based on what another replaces
  const path = (id) => join(dir, createHash("sha256").update(id).digest("hex").slice(0, 40) + ending);

  async function update(id, change) {
    const had = await read(path(id));
    const next = change(had);
    if (next === had) return next;
    if (next === undefined) await rm(path(id), { force: true });
    else await write(path(id), JSON.stringify({ ...next, id }));
    await settle(dir);
    return next;
  }

  return {
    kind: "file",
    scope: "machine",
    all: async () => {
      await ready;
      const names = (await readdir(dir)).filter((n) => n.endsWith(ending));
      const found = await Promise.all(names.map((n) => read(join(dir, n))));
      return found.filter((r) => r !== undefined).sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
    },
    update: (id, change) => {
      const mine = turn.then(() => update(id, change));
      turn = mine.catch(() => {});
      return mine;
    },
  };
}

async function read(file) {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (err) {
    if (err.code === "ENOENT") return undefined;
    throw new Error(`${file} cannot be read as an intention: ${err.message}`, { cause: err });
  }
}

// Whole or not at all: a file is never changed in place.
async function write(file, text) {
  const temporary = `${file}.${randomUUID()}`;
  const out = await open(temporary, "wx", 0o600);
  try {
    await out.writeFile(text);
    await out.sync();
  } catch (err) {
    await rm(temporary, { force: true });
    throw err;
  } finally {
    await out.close();
  }
  await rename(temporary, file);
}

// A rename lasts once its directory is on disk. Windows has no such call.
async function settle(dir) {
  try {
    const d = await open(dir, "r");
    await d.sync().finally(() => d.close());
  } catch (err) {
    if (process.platform !== "win32") throw err;
  }
}
