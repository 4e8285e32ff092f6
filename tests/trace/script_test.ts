/** The script of the guide: it changes events on their way to the replayer. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { durable, replayDurably } from "../../docs/examples/durable_replay.ts";
import { FLAG_FUA } from "../../lib/block/request.ts";
import { eventsOf, sourceOf } from "../../lib/trace/source.ts";
import { complete, submit, traceOf, writeNative } from "../support/traces.ts";
import { runOk, scriptProgram, withTempDir } from "../support/tools.ts";

const SCRIPT = new URL("../../docs/examples/durable_replay.ts", import.meta.url);

const EVENTS = [
  submit(1, 0, "write", 0, { data: new Uint8Array(512).fill(1) }),
  submit(2, 1, "read", 4096),
  complete(1, 2),
  submit(3, 3, "flush"),
  complete(2, 4),
  complete(3, 5),
];

Deno.test("the script of the guide makes writes durable and leaves flushes out", async () => {
  const source = traceOf(EVENTS);
  const changed = sourceOf(source.info, durable(eventsOf(source)));
  const events = await Array.fromAsync(eventsOf(changed));
  assert.deepEqual(
    events.map((event) => event.kind === "submit" ? [event.operation, event.flags] : event.id),
    [["write", FLAG_FUA], ["read", 0], 1, 2, 3],
  );
});

Deno.test("the script of the guide replays a trace on a target", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "trace"), image = join(folder, "image");
    await writeNative(path, traceOf(EVENTS));
    const report = await replayDurably(path, `file:${image}?size=1M`);
    assert.deepEqual([report.requests, report.failureCount], [2, 0]);
    assert.equal((await Deno.readFile(image))[0], 1);
    const [deno = "", ...args] = scriptProgram(SCRIPT);
    assert.match(
      await runOk(deno, [...args, path, "memory:1M"]),
      /^1 writes in \d+ ms, median \d+ µs$/m,
    );
  }));

Deno.test("the guide of traces shows the script as it is", async () => {
  const guide = await Deno.readTextFile(new URL("../../docs/traces.md", import.meta.url));
  assert.ok(guide.includes(await Deno.readTextFile(fileURLToPath(SCRIPT))), "they differ");
});
