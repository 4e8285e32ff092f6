/**
 * `dmu trace plot`: files that it writes, and what it refuses.
 *
 * @module
 */
import assert from "node:assert/strict";
import { NO_INFO, type TraceEvent } from "../../lib/trace/event.ts";
import { native } from "../../lib/trace/formats/native.ts";
import { TraceNotes } from "../../lib/trace/source.ts";
import { withTempDir } from "../support/tools.ts";
import { parseXml } from "../support/xml.ts";
import { CapturedIo, dmu } from "./captured_io.ts";

function events(): TraceEvent[] {
  return Array.from({ length: 50 }, (_, index): TraceEvent[] => {
    const id = index + 1, timeUs = index * 100, rest = { digest: null, payload: null };
    const place = { operation: "write", offset: index * 4096, length: 4096, flags: 0 } as const;
    return [
      { kind: "submit", timeUs, id, connection: 1, ...place, ...rest },
      { kind: "complete", timeUs: timeUs + 40, id, errno: null, ...rest },
    ];
  }).flat();
}

async function writeTraceFile(path: string, target: string | null): Promise<void> {
  const info = { ...NO_INFO, completes: true, target };
  const batches = async function* (): AsyncGenerator<readonly TraceEvent[]> {
    yield events();
  };
  assert.ok(native.write !== undefined);
  const pieces = await Array.fromAsync(native.write(info, batches(), new TraceNotes()));
  Deno.writeFileSync(path, new Uint8Array(await new Blob(pieces).arrayBuffer()));
}

Deno.test("dmu trace plot writes SVG or HTML, as the name ends or as --format says", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/disk.dmutrace`;
    await writeTraceFile(path, null);
    for (const args of [["-o", `${folder}/a.svg`], ["--out", `${folder}/b`, "--format", "svg"]]) {
      const { code, stdout, stderr } = await dmu(["trace", "plot", path, ...args]);
      assert.deepEqual([code, stdout, stderr], [0, "", ""]);
      const svg = Deno.readTextFileSync(args[1] ?? "");
      assert.equal(parseXml(svg).name, "svg");
      assert.match(svg, /<title>Trace of disk\.dmutrace<\/title>/);
      assert.match(svg, /50 requests/);
    }
    const html = `${folder}/a.HTML`;
    const title = ["--title", "Night & day"];
    const { code } = await dmu(["trace", "plot", path, "-o", html, ...title]);
    assert.equal(code, 0);
    assert.match(
      Deno.readTextFileSync(html),
      /^<!DOCTYPE html>[^]*<title>Night &amp; day<\/title>/,
    );
  });
});

Deno.test("dmu trace plot takes the target's name for a title, and writes to a pipe", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/t`;
    await writeTraceFile(path, "vm7");
    const args = ["trace", "plot", path, "-o", "-", "--format", "svg"];
    const { code, stdout } = await dmu(args);
    assert.equal(code, 0);
    assert.match(
      stdout,
      /^<svg[^]*<title>Trace of vm7<\/title>[^]*<\/svg>\n$/,
    );
  });
});

Deno.test("dmu trace plot refuses names that do not tell, files that are there, what is no trace", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/t`, taken = `${folder}/taken.svg`, torn = `${folder}/torn`;
    await writeTraceFile(path, "vm7");
    Deno.writeTextFileSync(taken, "precious");
    Deno.writeFileSync(torn, Deno.readFileSync(path).subarray(0, 30));
    const rows: [string[], number, RegExp][] = [
      [[path, "-o", `${folder}/x.png`], 2, /Cannot tell the format of ".*x\.png": it ends neither/],
      [[path, "-o", "-"], 2, /--format names one/],
      [[path], 2, /required option '-o, --out <file>'/],
      [[path, "-o", taken], 1, /Cannot write .*taken\.svg: it is there already; --force/],
      [[`${folder}/no`, "-o", `${folder}/x.svg`], 1, /Cannot read .*no: no such file/],
      [[torn, "-o", `${folder}/x.svg`], 1, /Cannot read the trace: it is cut off in its header/],
    ];
    for (const [args, wanted, message] of rows) {
      const { code, stdout, stderr } = await dmu(["trace", "plot", ...args]);
      assert.deepEqual([code, stdout], [wanted, ""], stderr);
      assert.match(stderr, message);
    }
    assert.equal(Deno.readTextFileSync(taken), "precious");
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), [
      ...["t", "taken.svg", "torn"],
    ]);
    const forced = await dmu(["trace", "plot", path, "-o", taken, "--force"]);
    assert.equal(forced.code, 0);
    assert.equal(parseXml(Deno.readTextFileSync(taken)).name, "svg");
  });
});

Deno.test("dmu trace plot leaves no file behind when it is interrupted", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/t`, out = `${folder}/t.svg`;
    await writeTraceFile(path, "vm7");
    const io = new CapturedIo({ errIsTerminal: true });
    const err = io.err.bind(io);
    // The first thing that is drawn is the progress of reading.
    io.err = (text) => {
      err(text);
      io.signal();
    };
    const { code, stderr } = await dmu(["trace", "plot", path, "-o", out], io);
    assert.equal(code, 1);
    assert.match(stderr, /Cannot finish the picture: it was interrupted/);
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["t"]);
  });
});

Deno.test("dmu trace plot draws what a damaged trace still has, and tells the rest", async () => {
  await withTempDir(async (folder) => {
    const path = `${folder}/t`, out = `${folder}/t.svg`;
    await writeTraceFile(path, "vm7");
    Deno.writeTextFileSync(path, "and more", { append: true });
    const { code, stderr } = await dmu(["trace", "plot", path, "-o", out]);
    assert.equal(code, 0);
    assert.match(stderr, /t: the trace is torn at byte \d+: 8 bytes were dropped/);
    assert.match(Deno.readTextFileSync(out), /! Note: the trace is torn at byte/);
  });
});
