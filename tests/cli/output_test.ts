/** What is printed: safe text, quoting, the progress line. @module */
import assert from "node:assert/strict";
import { cliLog } from "../../cli/io.ts";
import { printError } from "../../cli/output.ts";
import { progressLine, startProgress } from "../../cli/progress.ts";
import { printable, shellQuote } from "../../cli/safe_text.ts";
import { BlockError } from "../../lib/block/errors.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import { CapturedIo } from "./captured_io.ts";

Deno.test("printable() takes the power over a terminal from a text", () => {
  assert.equal(printable("a\x1b[31mb\r\n\u202ec\u2028d\x9b"), "a�[31mb���c�d�");
  assert.equal(printable("ä 😀 名"), "ä 😀 名");
});

Deno.test("shellQuote() quotes what a shell would read otherwise", () => {
  assert.equal(shellQuote("file:/a/b_c-1.img"), "file:/a/b_c-1.img");
  assert.equal(shellQuote("a b"), "'a b'");
  assert.equal(shellQuote("it's"), `'it'\\''s'`);
  assert.equal(shellQuote(""), "''");
  assert.equal(shellQuote("x?y&z"), "'x?y&z'");
});

Deno.test("progressLine() fits its columns and tells share, rate and time left", () => {
  const gib = 2 ** 30;
  assert.equal(
    progressLine("copy", gib / 4, gib, 64 * 2 ** 20),
    "copy █████░░░░░░░░░░░░░░░ 25% of 1 GiB, 64 MiB/s, 12 s left",
  );
  assert.equal(progressLine("copy", 0, 0, 0), "copy ████████████████████ 100% of 0 B");
  for (const columns of [10, 40, 80, 200]) {
    const line = progressLine("verify", 5e15, 9e15, 123456789, columns);
    assert.ok(line.length < Math.min(columns, 80) + 1, `${columns}: ${line}`);
  }
});

Deno.test("startProgress() draws at most ten times a second", () => {
  const io = new CapturedIo({ errIsTerminal: true });
  let now = 0;
  const progress = startProgress(io, "copy", () => now);
  for (; now < 1000; now += 1) progress.update(now, 1000);
  const drawn = io.stderr.split("\r").length - 1;
  assert.equal(drawn, 10);
  progress.clear();
  assert.ok(io.stderr.endsWith("\r\x1b[K"));
});

Deno.test("startProgress() prints nothing where there is no terminal", () => {
  const io = new CapturedIo();
  const progress = startProgress(io, "copy");
  progress.update(1, 2);
  progress.clear();
  assert.equal(io.stderr, "");
});

Deno.test("cliLog() keeps a message in its line, debug and stacks for --verbose", () => {
  const io = new CapturedIo();
  const log = cliLog(io);
  log.info("a\x1b[2Jb\nc");
  log.warn("careful");
  log.debug("detail");
  log.error("failed", new Error("cause"));
  assert.equal(io.stderr, "dmu: a\ufffd[2Jb\ufffdc\ndmu: warning: careful\ndmu: failed\n");
  io.verbose = true;
  log.debug("detail");
  log.error("failed", new Error("cause"));
  assert.match(io.stderr, /dmu: detail\ndmu: failed\nError: cause\n +at /);
});

Deno.test("printError() keeps to one line what a name with a line break is in, all of it", () => {
  const io = new CapturedIo();
  assert.equal(printError(io, new BlockError("ENOENT", "Cannot open a\nb: no such file")), 1);
  assert.equal(io.stderr, "dmu: Cannot open a\ufffdb: no such file\n");
  const usage = new CapturedIo();
  try {
    parseSpec("a\nb:c");
    assert.fail("this is no spec");
  } catch (error) {
    assert.equal(printError(usage, error), 2);
  }
  assert.match(usage.stderr, /^dmu: Cannot read "a\ufffdb:c": .+\n {2}a\ufffdb:c\n {2}\^+\n$/);
});
