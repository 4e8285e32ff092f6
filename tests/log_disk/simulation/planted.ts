/**
 * The engine with a bug planted: its sources are copied with a change, and loaded from there. What a simulation
 * is worth shows in the bugs that it finds.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { CloneEngine } from "./clone_races.ts";
import type { FamilyEngine } from "./family.ts";
import type { Engine } from "./run.ts";

const LIB = new URL("../../../lib/", import.meta.url);

/** A piece of a source file below lib/log_disk, and what stands there instead. */
export interface Change {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

/** A bug. */
export interface PlantedBug {
  readonly name: string;
  readonly changes: readonly Change[];
}

async function* sources(folder: string, below = ""): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(join(folder, below))) {
    const path = join(below, entry.name);
    if (entry.isDirectory) yield* sources(folder, path);
    else yield path;
  }
}

/** Loads the engine with a bug; the copy is in `folder`. Throws if the source has no such piece. */
export async function loadWithBug(
  bug: PlantedBug,
  folder: string,
): Promise<Engine & FamilyEngine & CloneEngine> {
  const origin = fileURLToPath(new URL("log_disk", LIB));
  const left = new Set(bug.changes);
  for await (const path of sources(origin)) {
    let text = await Deno.readTextFile(join(origin, path));
    for (const change of bug.changes.filter(({ file }) => file === path)) {
      assert.equal(text.split(change.from).length, 2, `"${change.from}" is not once in ${path}`);
      text = text.replace(change.from, () => change.to);
      left.delete(change);
    }
    // Errors are told apart by their classes: all else stays what the test uses, too.
    text = text.replaceAll(/"(?:\.\.\/)+(block|object_store|sys)\//g, `"${LIB.href}$1/`);
    const target = join(folder, path);
    await Deno.mkdir(join(target, ".."), { recursive: true });
    await Deno.writeTextFile(target, text);
  }
  assert.equal(left.size, 0, "a file is not there");
  const disk: Pick<Engine, "LogDisk"> = await load(folder, "log_disk.ts");
  const collector: Pick<Engine, "Collector"> = await load(folder, "gc/collector.ts");
  const managed: Pick<FamilyEngine, "openManagedDisk"> = await load(folder, "managed_disk.ts");
  const clone: Pick<CloneEngine, "cloneVolume" | "removeVolume"> = await load(
    folder,
    "tools/clone.ts",
  );
  const snapshots: Omit<CloneEngine, "cloneVolume" | "removeVolume" | "openManagedDisk"> =
    await load(folder, "snapshots.ts");
  const { LogDisk } = disk, { Collector } = collector, { openManagedDisk } = managed;
  return { ...snapshots, ...clone, LogDisk, Collector, openManagedDisk };
}

function load<T>(folder: string, file: string): Promise<T> {
  return import(pathToFileURL(join(folder, file)).href);
}

/** Bugs that must be found. */
export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: "a flush acknowledges before anything is durable",
    changes: [{
      file: "writer.ts",
      from: "    return this.whenDurable(target);",
      to: "    return;",
    }],
  },
  {
    name: "objects are acknowledged out of order",
    changes: [{
      file: "writer.ts",
      from: "    return this.#outgoing[0]?.segment.seq ?? this.position;",
      to: '    const last = this.#outgoing.findLast(({ state }) => state === "created");\n' +
        "    return last !== undefined ? last.segment.seq + 1 : this.#outgoing[0]?.segment.seq ?? this.position;",
    }],
  },
  {
    name: "the checkpoints are not looked at again after a claim",
    changes: [{
      file: "claim.ts",
      from: "const isUsed = await isUndisturbed(store, checkpoints, signal)",
      to: "const isUsed = true",
    }],
  },
  {
    name: "claims are deleted",
    changes: [{ file: "log_state.ts", from: "claim && !afterDetach)", to: "false)" }],
  },
  {
    name: "the boundary is published after what is behind it was deleted",
    changes: [{
      file: "gc/collector.ts",
      from: "    const boundary = await disk.checkpoint();",
      to: "    await disk.flush();\n    const boundary = disk.durableSeq;\n" +
        "    void (async () => (await clock.sleep(500), await disk.checkpoint()))().catch(() => {});",
    }],
  },
  {
    name: "a replay takes what older writers left behind a claim",
    changes: [
      { file: "claim.ts", from: "state.next + description.windowSlots", to: "state.next + 1" },
      {
        file: "log_state.ts",
        from: "claim ? epoch <= state.epoch : epoch !== state.epoch",
        to: "epoch < 1",
      },
    ],
  },
  {
    name: "a creation whose outcome is unclear counts as done",
    changes: [{ file: "create_own.ts", from: 'return "unclear";', to: 'return "created";' }],
  },
  {
    name: "an object that exists counts as ours",
    changes: [{
      file: "create_own.ts",
      from: 'return header.nonce === object.nonce ? "ours" : header;',
      to: 'return "ours";',
    }],
  },
  {
    name: "a checkpoint is published before what it says is durable",
    changes: [{
      file: "checkpoint_keeper.ts",
      from: "    await this.#source.whenDurable(seq);\n",
      to: "",
    }],
  },
  {
    name: "more objects are on their way than the window has slots",
    changes: [{ file: "writer.ts", from: "outgoing.segment.seq >= end || ", to: "" }],
  },
  {
    name: "what is written while data is moved is lost",
    changes: [
      { file: "log_disk.ts", from: "if (!isThere) continue;", to: "" },
      {
        file: "extent_map.ts",
        from: "if (same) parts.push(at, run.length);",
        to: "parts.push(at, run.length);",
      },
    ],
  },
  {
    name: "a writer goes on after it was taken over from",
    changes: [{
      file: "writer.ts",
      from: "      this.#fail(this.#takenOver(outgoing.segment.seq, outcome));\n      return;\n",
      to: "",
    }],
  },
];

/** What the marker of a deletion is without its nonce: two deletions share it. */
const ONE_MARKER: Change = {
  file: "snapshots.ts",
  from: "const nonce = newId(context), marker",
  to: 'const nonce = "0".repeat(32), marker',
};

/** Bugs that all schedules of clones and deletions must show. */
export const PLANTED_CLONE_BUGS: readonly PlantedBug[] = [
  {
    name: "whoever clones does not look for deletions",
    changes: [{
      file: "snapshots.ts",
      from: "if (!await keepFrom(parent, id, deleters, options)) {",
      to: "if (deleters.length < 0) {",
    }],
  },
  {
    name: "whoever clones does not look whether the snapshot is still there",
    changes: [{
      file: "snapshots.ts",
      from: "if (await parent.get(snapshotKey({ name, id }), undefined, options) === null) {",
      to: "if (name === null) {",
    }],
  },
  {
    name: "whoever deletes looks for clones before he puts his marker",
    changes: [{
      file: "snapshots.ts",
      from: "  await createSurely(store, marker, textBytes(`${nonce}\\n`), { signal });\n" +
        "  const clones = await clonesNeeding(store, id, { signal });\n",
      to: "  const clones = await clonesNeeding(store, id, { signal });\n" +
        "  await createSurely(store, marker, textBytes(`${nonce}\\n`), { signal });\n",
    }],
  },
  {
    name: "whoever deletes does so whatever was decided",
    changes: [{
      file: "snapshots.ts",
      from: '{ signal }) === "created";',
      to: "{ signal }) !== null;",
    }],
  },
  {
    name: "whoever deletes takes his marker away before the snapshot is gone",
    changes: [{
      file: "snapshots.ts",
      from: "  await store.delete([snapshotKey(snapshot)], { signal });\n",
      to: "  await store.delete([marker], { signal });\n" +
        "  await store.delete([snapshotKey(snapshot)], { signal });\n",
    }],
  },
  { name: "two deletions share a marker", changes: [ONE_MARKER] },
  {
    name: "a later snapshot has the key of an earlier one",
    changes: [
      {
        file: "names.ts",
        from: "  return snapshotPrefix(name) + id;",
        to: '  return snapshotPrefix(name) + "0".repeat(32);',
      },
      {
        file: "snapshots.ts",
        from: "if (found.id === snapshot.id && found.name === snapshot.name) return found;",
        to: "if (found.name === snapshot.name) return found;",
      },
    ],
  },
  {
    name: "a snapshot can be cloned before it is complete",
    changes: [{ file: "snapshots.ts", from: "if (isTaken) return null;", to: "return null;" }],
  },
  {
    name: "the marker of a clone is put after the look for deletions",
    changes: [{
      file: "snapshots.ts",
      from: "    await createSurely(parent, marker, textBytes(`${address}\\n`), options);\n" +
        "    const why = await obstacle(parent, snapshot, options);\n",
      to: "    const why = await obstacle(parent, snapshot, options);\n" +
        "    await createSurely(parent, marker, textBytes(`${address}\\n`), options);\n",
    }],
  },
  {
    name: "a clone that is removed leaves its marker",
    changes: [{
      file: "tools/clone.ts",
      from: "await releaseSnapshot(parent, snapshotId, described.id, { signal });",
      to: "",
    }],
  },
];

/** Bugs that simulations of machines with write-ahead logs must find. */
export const PLANTED_WAL_BUGS: readonly PlantedBug[] = [
  {
    name: "what the log has is not done again",
    changes: [{
      file: "wal/wal_disk.ts",
      from: "if (records > 0) {",
      to: "if (records < 0) {",
    }],
  },
  {
    name: "a log is put on what another machine has written",
    changes: [{
      file: "wal/wal_disk.ts",
      from: "      wal.checkOwner(volume, last);\n",
      to: "",
    }],
  },
  {
    name: "objects are created before the log is synced",
    changes: [{
      file: "wal/wal_disk.ts",
      from: "beforeCreate: () => wal.sync(),",
      to: "beforeCreate: () => Promise.resolve(),",
    }],
  },
  {
    name: "a flush does not sync the log",
    changes: [{
      file: "wal/wal_disk.ts",
      from: "    if (failure !== null) throw failure;\n    await this.#wal.sync();",
      to: "    if (failure !== null) throw failure;",
    }],
  },
  {
    name: "a machine forgets that it was about to take over from itself",
    changes: [{ file: "wal/wal_disk.ts", from: "      await wal.claim(next);\n", to: "" }],
  },
  {
    name: "the log begins anew before the volume has what it had",
    changes: [{ file: "wal/wal_disk.ts", from: "    await disk.flush();\n  }", to: "  }" }],
  },
];

/** Bugs that simulations of families of volumes must find. */
export const PLANTED_FAMILY_BUGS: readonly PlantedBug[] = [
  {
    name: "snapshots keep no object from being deleted",
    changes: [{
      file: "gc/collector.ts",
      from: "return neededByAny([...known.values()]);",
      to: "return neededByAny([]);",
    }],
  },
  {
    name: "the checkpoint of a snapshot is deleted",
    changes: [{ file: "gc/collector.ts", from: " && !kept.has(key)", to: "" }],
  },
  {
    name: "what a resize cuts off comes back with the next one",
    changes: [{
      file: "log_state.ts",
      from: "if (header.diskBytes < state.diskBytes) {",
      to: "if (header.diskBytes < 0) {",
    }],
  },
  {
    name: "a snapshot under a clone is deleted",
    changes: [{
      file: "snapshots.ts",
      from: "if (!isDecided) {",
      to: "if (name === null) {",
    }],
  },
  {
    name: "the cache takes a parent's objects for those of its clone",
    changes: [{
      file: "read/cached_reader.ts",
      from: "return seq * ORIGINS_MAX + origin;",
      to: "return seq * ORIGINS_MAX;",
    }],
  },
  {
    name: "a snapshot has the size of another moment",
    changes: [{
      file: "managed_disk.ts",
      from: "diskBytes: disk.durableBytes,",
      to: "diskBytes: disk.geometry.size,",
    }],
  },
  {
    name: "a writer who was taken over from takes a snapshot",
    changes: [{ file: "managed_disk.ts", from: "await disk.resize(disk.geometry.size);", to: "" }],
  },
];
