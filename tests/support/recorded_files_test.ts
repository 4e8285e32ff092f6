/**
 * The recording file layer against a journal of a few lines: data, a barrier, then a commit record. All
 * crash states of it are right; without the barrier, or with data behind it, wrong ones are found.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CrashFiles } from "./crash_files.ts";
import {
  type CrashState,
  crashStates,
  type FileEvent,
  RecordedFiles,
  type StateBounds,
  withLateChanges,
  withoutFlushes,
} from "./recorded_files.ts";

const PATH = "journal";
const SECTOR = 512;
const OPTIONS = { readOnly: false, direct: false, lock: true, createSize: 16 * SECTOR };
const BOUNDS: StateBounds = { seed: 1, prefixEvery: 1, singles: 100, subsets: 20 };
const COMMITS = 3;

/** The first sector counts commits; commit n fills sector n with n before that. */
async function record(): Promise<RecordedFiles> {
  const files = new RecordedFiles(new CrashFiles({ seed: 1 }));
  const file = files.open(PATH, OPTIONS);
  for (let commit = 1; commit <= COMMITS; commit += 1) {
    file.write(new Uint8Array(SECTOR).fill(commit), commit * SECTOR);
    file.flush();
    file.write(new Uint8Array(SECTOR).fill(commit), 0);
    await file.flushAsync();
  }
  file.punch(15 * SECTOR, SECTOR);
  file.truncate(20 * SECTOR);
  file.close();
  return files;
}

function isRight({ files }: CrashState): boolean {
  const content = files.get(PATH);
  assert.ok(content !== undefined);
  const commits = content[0] ?? 0;
  return Array.from({ length: commits }, (_, index) => index + 1)
    .every((commit) => content[commit * SECTOR] === commit);
}

function wrongStates(files: RecordedFiles, events: readonly FileEvent[]): CrashState[] {
  return [...crashStates(files.start, events, BOUNDS)].filter((state) => !isRight(state));
}

Deno.test("RecordedFiles writes down what was done, in its order", async () => {
  const { events, start } = await record();
  assert.deepEqual(
    events.map((event) => event.kind),
    [
      ...Array.from({ length: COMMITS }, () => ["write", "flush", "write", "flush"]).flat(),
      "zero",
      "size",
    ],
  );
  assert.deepEqual(events.flatMap((event) => event.kind === "flush" ? [event.covers] : []), [
    ...[1, 3, 5, 7, 9, 11],
  ]);
  assert.equal(start.get(PATH)?.length, 16 * SECTOR);
});

Deno.test("crashStates() gives every prefix and reorders, and no state that a flush forbids", async () => {
  const files = await record();
  const states = [...crashStates(files.start, files.events, BOUNDS)];
  assert.deepEqual(wrongStates(files, files.events), []);
  const counts = new Set(states.map((state) => state.files.get(PATH)?.[0]));
  assert.deepEqual([...counts].sort(), [0, 1, 2, 3]);
  for (const { files: contents, position } of states) {
    // The flush of the third commit is event 11.
    if (position > 11) assert.equal(contents.get(PATH)?.[0], COMMITS);
  }
  const again = [...crashStates(files.start, files.events, BOUNDS)];
  assert.deepEqual(again, states, "the same seed gives the same states");
});

Deno.test("crashStates() finds a missing barrier, and a write behind its barrier", async () => {
  const files = await record();
  assert.ok(wrongStates(files, withoutFlushes(files.events, () => true)).length > 0);
  const isData = (event: FileEvent): boolean => event.kind === "write" && event.offset > 0;
  assert.ok(wrongStates(files, withLateChanges(files.events, isData)).length > 0);
});
