/**
 * Opening and converting traces as files: the format is found, compressed ones are read, those of several
 * CPUs are joined, and what is left behind after a failure is nothing.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { UsageError } from "../../lib/block/usage_error.ts";
import {
  convertTrace,
  detectFormat,
  formatByEnding,
  formatNamed,
  openTrace,
  openTraceStream,
} from "../../lib/trace/convert.ts";
import type { TraceEvent } from "../../lib/trace/event.ts";
import { formats } from "../../lib/trace/formats/mod.ts";
import { eventsOf, TraceNotes, type TraceSource } from "../../lib/trace/source.ts";
import { TraceError } from "../../lib/trace/trace_error.ts";
import { withTempDir } from "../support/tools.ts";
import { complete, inChunks, submit, told, writeAll } from "./format_support.ts";

const INFO = { started_ms: 1_700_000_000_000, target: "disk", size: null, completes: true };

const EVENTS: readonly TraceEvent[] = Array.from({ length: 300 }, (_, at): TraceEvent[] => {
  const offset = at * 4096, payload = new Uint8Array(512).fill(at);
  const id = at + 1, timeUs = at * 10;
  return [
    submit(timeUs, id, { operation: "write", offset, length: 512, payload }),
    complete(timeUs + 5, id),
  ];
}).flat();

/** What every format keeps of EVENTS: the requests. */
function requests(events: readonly TraceEvent[]): string[] {
  return events.flatMap((event) =>
    event.kind === "submit" ? [`${event.operation} ${event.offset}+${event.length}`] : []
  );
}

async function requestsIn(source: TraceSource): Promise<string[]> {
  return requests(await Array.fromAsync(eventsOf(source)));
}

Deno.test("convertTrace() goes from every format to every one that is written", async () => {
  await withTempDir(async (folder) => {
    const written = formats.filter(({ write }) => write !== undefined);
    for (const from of written) {
      const { bytes } = await writeAll(from, INFO, EVENTS);
      const path = join(folder, from.name);
      await Deno.writeFile(path, bytes);
      for (const to of written) {
        const opened = await openTrace(path);
        assert.equal(opened.format, from);
        const output = join(folder, `${from.name}-${to.name}`), notes = new TraceNotes();
        // The data are gone on the way through a format that has none.
        if (to.name === "dm-log-writes" && !["native", "nbd-log", to.name].includes(from.name)) {
          await assert.rejects(convertTrace(opened.source, to, output, notes), TraceError);
          await assert.rejects(Deno.stat(output), Deno.errors.NotFound);
          continue;
        }
        let told = 0;
        const result = await convertTrace(
          opened.source,
          to,
          output,
          notes,
          (count) => told = count,
        );
        assert.equal(result.bytes, (await Deno.stat(output)).size);
        assert.equal(told, result.events);
        assert.deepEqual([opened.bytes, opened.bytesRead()], [bytes.length, bytes.length]);
        const again = await openTrace(output);
        assert.equal(again.format, to);
        assert.deepEqual(
          await requestsIn(again.source),
          requests(EVENTS),
          `${from.name} ${to.name}`,
        );
        assert.equal(again.source.notes.problemCount, 0);
      }
    }
  });
});

Deno.test("convertTrace() keeps times and completions between formats that have both", async () => {
  await withTempDir(async (folder) => {
    const { bytes } = await writeAll(formatNamed("native"), INFO, EVENTS);
    const path = join(folder, "a.dmutrace"), over = join(folder, "b.blktrace.0");
    await Deno.writeFile(path, bytes);
    await convertTrace(
      (await openTrace(path)).source,
      formatNamed("blktrace"),
      over,
      new TraceNotes(),
    );
    const { source } = await openTrace(over);
    assert.equal(source.info.started_ms, INFO.started_ms);
    const events = await Array.fromAsync(eventsOf(source));
    assert.deepEqual(events.map(told), EVENTS.map((each) => told({ ...each, payload: null })));
  });
});

Deno.test("openTrace() joins the files of the CPUs, whichever is named", async () => {
  await withTempDir(async (folder) => {
    const { bytes } = await writeAll(
      formatNamed("blktrace"),
      { ...INFO, started_ms: null },
      EVENTS,
    );
    // A name of the process comes first, with sixteen bytes; then records in turn on two CPUs.
    const files: Uint8Array[][] = [[bytes.subarray(0, 64)], []];
    for (let at = 64; at < bytes.length; at += 48) {
      files[at / 48 % 2 | 0]?.push(bytes.subarray(at, at + 48));
    }
    for (const [cpu, parts] of files.entries()) {
      const blob = new Blob(parts.map((part) => new Uint8Array(part)));
      await Deno.writeFile(
        join(folder, `sda.blktrace.${cpu}`),
        new Uint8Array(await blob.arrayBuffer()),
      );
    }
    await Deno.writeFile(join(folder, "sda2.blktrace.0"), new Uint8Array(0));
    for (const name of ["sda", "sda.blktrace.0", "sda.blktrace.1"]) {
      const opened = await openTrace(join(folder, name));
      const events = await Array.fromAsync(eventsOf(opened.source));
      assert.deepEqual(events.map(told), EVENTS.map((each) => told({ ...each, payload: null })));
      assert.deepEqual([opened.bytes, opened.bytesRead()], [bytes.length, bytes.length]);
    }
    await assert.rejects(openTrace(join(folder, "sdb")), Deno.errors.NotFound);
  });
});

Deno.test("openTraceStream() reads what is compressed, and tells if it is damaged", async () => {
  const { bytes } = await writeAll(formatNamed("fio"), INFO, EVENTS);
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
  const gz = new Uint8Array(await new Response(packed).arrayBuffer());
  const { source, format } = await openTraceStream(inChunks(gz, 100), "x.gz");
  assert.equal(format.name, "fio");
  assert.deepEqual(await requestsIn(source), requests(EVENTS));
  await withTempDir(async (folder) => {
    const path = join(folder, "damaged.gz");
    await Deno.writeFile(path, gz.map((byte, at) => at === 30 ? byte ^ 0xff : byte));
    const opened = openTrace(path).then(({ source }) => requestsIn(source));
    await assert.rejects(opened, TraceError);
  });
  const cut = openTraceStream(inChunks(gz.subarray(0, gz.length - 20), 100), "x.gz");
  await assert.rejects(
    cut.then((opened) => requestsIn(opened.source)),
    /compressed, and damaged or cut off/,
  );
});

Deno.test("openTraceStream() finds the format by content, then by ending, and tells if it cannot", async () => {
  assert.equal(detectFormat(new TextEncoder().encode("fio version 2 iolog\n"))?.name, "fio2");
  assert.equal(detectFormat(new TextEncoder().encode("fio version 4 iolog\n"))?.name, "fio");
  assert.equal(detectFormat(new Uint8Array(20)), null);
  assert.equal(formatByEnding("/tmp/x/sda.blktrace.0")?.name, "blktrace");
  assert.equal(formatByEnding("a.load.gz")?.name, "blkreplay");
  assert.equal(formatByEnding("a.csv"), null);
  assert.equal(formatNamed("msr").name, "msr");
  assert.throws(() => formatNamed("spc"), /no trace format "spc"; there are native, dm-log-writes/);
  const text = new TextEncoder().encode("1538323200,x,128,0,1063\n1538323200,8,128,0,1063\n");
  const unknown = new TextEncoder().encode("what is this\n");
  await assert.rejects(
    openTraceStream(inChunks(unknown, 5), "a"),
    /its format is not known; known are/,
  );
  await assert.rejects(
    openTraceStream(inChunks(new Uint8Array(0), 5), "a"),
    /it is empty; known are/,
  );
  const named = await openTraceStream(inChunks(text, 5), "a", { format: formatNamed("tencent") });
  assert.deepEqual(await requestsIn(named.source), ["read 4096+65536"]);
  const byEnding = openTraceStream(inChunks(unknown, 5), "a.dmutrace");
  await assert.rejects(byEnding, /cut off in its header/);
});

Deno.test("convertTrace() refuses formats that are not written, and files that exist", async () => {
  const { bytes } = await writeAll(formatNamed("fio"), INFO, EVENTS);
  const notes = new TraceNotes();
  await withTempDir(async (folder) => {
    const path = join(folder, "there"), input = join(folder, "input");
    await Deno.writeFile(input, bytes);
    const { source: first } = await openTrace(input);
    await assert.rejects(convertTrace(first, formatNamed("msr"), path, notes), UsageError);
    const { source } = await openTrace(input);
    await Deno.writeTextFile(path, "mine");
    await assert.rejects(
      convertTrace(source, formatNamed("fio2"), path, notes),
      Deno.errors.AlreadyExists,
    );
    assert.equal(await Deno.readTextFile(path), "mine");
  });
});
