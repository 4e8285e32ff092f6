/**
 * Objects as files: the contract, what a crash leaves, and errors.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { BlockError } from "../../lib/block/errors.ts";
import { openFolderStore } from "../../lib/object_store/folder.ts";
import { StoreError } from "../../lib/object_store/types.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { type FolderAccess, systemFolders } from "../../lib/sys/folder_access.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { testClock } from "../../lib/testing/context.ts";
import { ManualClock } from "../support/context.ts";
import { CrashFolders } from "../support/crash_folders.ts";
import { MemoryBucket, MemoryStore } from "../support/memory_store.ts";
import { bytesOf, checkStore, keysOf } from "../support/store_contract.ts";
import { withTempDir } from "../support/tools.ts";

let seed = 0;

function context(
  rest: { readonly readOnly?: boolean } = {},
): Parameters<typeof openFolderStore>[1] {
  seed += 1;
  return {
    clock: testClock,
    random: seededRandom(seed),
    files: systemFiles,
    readOnly: false,
    ...rest,
  };
}

Deno.test("openFolderStore() keeps the contract of object stores", async () => {
  await withTempDir(async (folder) => {
    await using store = await openFolderStore(join(folder, "disk"), context());
    await checkStore(store, { entries: 200 });
    assert.deepEqual([...Deno.readDirSync(join(folder, "disk/.new"))], []);
  });
});

Deno.test("MemoryStore keeps the contract of object stores", async () => {
  await using store = new MemoryStore(new MemoryBucket());
  await checkStore(store);
});

Deno.test("openFolderStore() lets one of several stores create when they share a folder", async () => {
  await withTempDir(async (folder) => {
    const stores = await Promise.all(
      [1, 2, 3].map(() => openFolderStore(join(folder, "disk/"), context())),
    );
    for (let round = 0; round < 20; round += 1) {
      const results = await Promise.all(
        stores.map((store, index) => store.create(`log/${round}`, [bytesOf(index, 100)])),
      );
      assert.deepEqual(results.toSorted(), ["created", "exists", "exists"]);
    }
  });
});

/** Creates objects while everything is recorded, and gives what is wrong in the states after a crash. */
async function wrongStates(broken: "nothing" | "folder sync" | "file sync"): Promise<string[]> {
  const crash = new CrashFolders("/disk", broken);
  const store = await openFolderStore("/disk", {
    clock: new ManualClock(),
    random: seededRandom(1),
    files: crash.files,
    folders: crash.folders,
    readOnly: false,
  });
  const bodies = new Map<string, Uint8Array<ArrayBuffer>>();
  const promised = new Map<string, number>();
  const gone = new Map<string, number>();
  for (const key of ["volume", "log/1", "log/2", "ckpt/1", "log/3"]) {
    const body = bytesOf(bodies.size + 1, 1500);
    bodies.set(key, body);
    await store.create(key, [body.subarray(0, 700), body.subarray(700)]);
    promised.set(key, crash.position);
  }
  await store.delete(["log/1"]);
  gone.set("log/1", crash.position);
  const problems: string[] = [];
  let states = 0;
  for (const { what, names, files } of crash.states(7)) {
    states += 1;
    for (const [key, body] of bodies) {
      const found = files.get(`/disk/${key}`);
      if (found !== undefined && Buffer.compare(found, body) !== 0) {
        problems.push(`${what}: ${key} is not whole`);
      }
      const since = promised.get(key) ?? Infinity, deletion = gone.get(key);
      if (found === undefined && since <= names && deletion === undefined) {
        problems.push(`${what}: ${key} is lost`);
      }
      if (found !== undefined && deletion !== undefined && deletion <= names) {
        problems.push(`${what}: ${key} has come back`);
      }
    }
  }
  assert.ok(states > 50, `${states} states`);
  return problems;
}

Deno.test("openFolderStore() keeps what was created, whole, when it crashes anywhere", async () => {
  assert.deepEqual(await wrongStates("nothing"), []);
});

Deno.test("the crash test of folder stores finds a sync that is missing", async () => {
  assert.match((await wrongStates("folder sync")).join("\n"), /is lost/);
  assert.match((await wrongStates("file sync")).join("\n"), /is not whole/);
});

Deno.test("openFolderStore() removes what a killed process left when it is old", async () => {
  await withTempDir(async (folder) => {
    const path = join(folder, "disk");
    await (await openFolderStore(path, context())).create("a", []);
    for (const name of ["old", "young"]) Deno.writeTextFileSync(join(path, ".new", name), "half");
    const past = Date.now() / 1000 - 7200;
    Deno.utimeSync(join(path, ".new/old"), past, past);
    const store = await openFolderStore(path, context());
    assert.deepEqual([...Deno.readDirSync(join(path, ".new"))].map(({ name }) => name), ["young"]);
    assert.deepEqual(await keysOf(store, ""), ["a"]);
  });
});

function hasKind(kind: string, errno: string, text: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof StoreError, String(error));
    assert.deepEqual([error.kind, error.errno], [kind, errno]);
    assert.match(error.message, text);
    return true;
  };
}

Deno.test("openFolderStore() says what is wrong with a folder", async () => {
  await withTempDir(async (folder) => {
    const path = join(folder, "disk");
    const readOnly = context({ readOnly: true });
    await assert.rejects(
      openFolderStore(path, readOnly),
      hasKind("no-bucket", "ENOENT", /Cannot open dir:.*: there is no such folder/),
    );
    await assert.rejects(
      openFolderStore(join(folder, "a/b"), context()),
      hasKind("unavailable", "ENOENT", /Cannot open dir:/),
    );
    const store = await openFolderStore(path, context());
    await store.create("log/1", []);
    await store.create("ckpt", []);
    await assert.rejects(
      store.create("log", []),
      hasKind("unsupported", "EISDIR", /there are objects below that key/),
    );
    await assert.rejects(store.create("ckpt/1", []), hasKind("unavailable", "ENOTDIR", /ckpt/));
    assert.equal(await store.get("ckpt/1"), null);
    const reader = await openFolderStore(path, readOnly);
    assert.deepEqual(await keysOf(reader, ""), ["ckpt", "log/1"]);
    await assert.rejects(
      reader.create("log/2", []),
      hasKind("denied", "EROFS", /it is open read-only/),
    );
    await assert.rejects(reader.delete(["log/1"]), hasKind("denied", "EROFS", /read-only/));
  });
});

Deno.test("openFolderStore() says that the disk is full, and leaves nothing behind", async () => {
  await withTempDir(async (folder) => {
    const full: FolderAccess = {
      ...systemFolders,
      create: async (path) => ({
        ...await systemFolders.create(path),
        write: () => Promise.reject(new BlockError("ENOSPC", "no space left on device")),
      }),
    };
    const store = await openFolderStore(folder, { ...context(), folders: full });
    await assert.rejects(
      store.create("log/1", [bytesOf(1, 1)]),
      hasKind("full", "ENOSPC", /Cannot create log\/1 of dir:.*no space left/),
    );
    assert.deepEqual(await keysOf(store, ""), []);
    assert.deepEqual(await systemFolders.entries(join(folder, ".new")), []);
  });
});
