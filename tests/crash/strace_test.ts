/**
 * The order of system calls in the real server: fdatasync has returned 0 before the reply to a flush,
 * or to a FUA write, is handed to the socket. A server whose flush does nothing fails the same check.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { COMMAND, COMMAND_FLAG, SIMPLE_REPLY_MAGIC } from "../../lib/nbd/constants.ts";
import { ascii, compact, digits } from "../nbd/fixtures.ts";
import { RawClient } from "../robustness/raw_client.ts";
import { interopTest, sampleBytes, startDmu, toolPath, withTempDir } from "../support/tools.ts";
import { type Call, escaped, parseStrace } from "./strace_log.ts";

const CARELESS = fileURLToPath(new URL("./careless_backend.ts", import.meta.url));
const SENDS: readonly string[] = ["write", "writev", "sendto", "sendmsg"];
const TRACED: readonly string[] = [...SENDS, "pwrite64", "fdatasync", "fsync"];
const REPLY_BYTES = 16;
const ROUNDS = 5;
const LENGTH = 8192;

/** The cookies of what the client did, in its order; each was answered before the next was sent. */
interface Deed {
  readonly kind: "write" | "fua" | "flush";
  readonly cookie: number;
}

function replyTo(cookie: number): string {
  return digits(SIMPLE_REPLY_MAGIC, 32) + digits(0, 32) + digits(cookie, 64);
}

/** Writes, flushes and writes with FUA; every reply has to be a success. */
async function work(path: string): Promise<Deed[]> {
  using client = await RawClient.enter(path, "d");
  const deeds: Deed[] = [];
  const payload = sampleBytes(LENGTH, 5);
  for (let cookie = 1; cookie <= 3 * ROUNDS; cookie += 1) {
    const kind = (["write", "flush", "fua"] as const)[(cookie - 1) % 3] ?? "write";
    const flags = kind === "fua" ? COMMAND_FLAG.FUA : 0;
    await client.send(
      kind === "flush"
        ? compact(COMMAND.FLUSH, cookie, 0, 0)
        : compact(COMMAND.WRITE, cookie, cookie * LENGTH, LENGTH, { flags, payload }),
    );
    assert.equal((await client.read(REPLY_BYTES)).toHex(), replyTo(cookie));
    deeds.push({ kind, cookie });
  }
  return deeds;
}

/** A path as it stands in the log. */
function printed(path: string): string {
  return escaped(ascii(Deno.realPathSync(path)));
}

/** Runs `spec` under strace and gives what it did for which requests. */
async function traced(
  folder: string,
  args: readonly string[],
): Promise<{ readonly calls: Call[]; readonly deeds: Deed[] }> {
  const log = join(folder, "log");
  const filter = ["-e", `trace=${TRACED.join(",")}`, "-e", "signal=none"];
  const wrapper = [toolPath("strace"), "-f", "--seccomp-bpf", "-y", "-xx", "-s", "64", ...filter];
  await using server = await startDmu([...args, "--nbd", `unix:${folder}/s`], {
    wrapper: [...wrapper, "-o", log],
  });
  const deeds = await work(join(folder, "s"));
  // strace ends with its child.
  const { pid } = server.ready;
  assert.ok(typeof pid === "number");
  Deno.kill(pid, "SIGTERM");
  assert.equal((await server.ended).code, 0, server.stderr());
  return { calls: parseStrace(await Deno.readTextFile(log)), deeds };
}

/** Fails if a flush or a FUA write was answered before its data were durable. */
function check(calls: readonly Call[], deeds: readonly Deed[], disk: string): void {
  let before = -1;
  for (const { kind, cookie } of deeds) {
    const bytes = escaped(replyTo(cookie));
    const reply = calls.find(({ name, args }) => SENDS.includes(name) && args.includes(bytes));
    assert.ok(reply !== undefined, `the reply to ${kind} ${cookie} is in the log`);
    const inside = calls.filter(({ args, begin, end }) =>
      begin > before && end < reply.begin && args.includes(disk)
    );
    const wrote = inside.find(({ name }) => name === "pwrite64");
    if (kind !== "flush") {
      assert.ok(
        wrote?.result === String(LENGTH),
        `no pwrite before the reply to ${kind} ${cookie}`,
      );
    }
    const synced = inside.some(({ name, result, begin }) =>
      name === "fdatasync" && result === "0" && begin > (wrote?.end ?? before)
    );
    if (kind !== "write") {
      assert.ok(synced, `no fdatasync before the reply to ${kind} ${cookie}`);
    }
    before = reply.begin;
  }
}

interopTest("fdatasync comes before the replies to flush and FUA", ["strace"], async () => {
  await withTempDir(async (folder) => {
    const disk = join(folder, "disk");
    const { calls, deeds } = await traced(folder, [`d=file:${disk}?size=1M`]);
    check(calls, deeds, printed(disk));
    assert.equal(deeds.length, 3 * ROUNDS);
    // Writes without FUA are not made durable one by one.
    const syncs = calls.filter(({ name, args }) =>
      name === "fdatasync" && args.includes(printed(disk))
    );
    assert.ok(syncs.length < 3 * ROUNDS, `${syncs.length} calls of fdatasync`);
  });
});

interopTest("a server whose flush does nothing fails that check", ["strace"], async () => {
  await withTempDir(async (folder) => {
    const disk = join(folder, "disk");
    const args = ["--backend", CARELESS, `d=careless:${disk}?size=1M`];
    const { calls, deeds } = await traced(folder, args);
    assert.throws(
      () => check(calls, deeds, printed(disk)),
      { message: "no fdatasync before the reply to flush 2" },
    );
  });
});

Deno.test("parseStrace() puts calls of several threads together", () => {
  const calls = parseStrace([
    '7 pwrite64(9</d>, "\\x01"..., 8192, 0) = 8192',
    "8 fdatasync(9</d> <unfinished ...>",
    '7 sendto(5<socket:[1]>, "\\x67\\x44", 2, MSG_NOSIGNAL, NULL, 0) = 2',
    "8 <... fdatasync resumed>) = 0",
    "7 fdatasync(9</d>) = -1 EIO (Input/output error)",
    "7 +++ exited with 0 +++",
  ].join("\n"));
  assert.deepEqual(calls.map(({ name, result, begin, end }) => [name, result, begin, end]), [
    ["pwrite64", "8192", 0, 0],
    ["sendto", "2", 2, 2],
    ["fdatasync", "0", 1, 3],
    ["fdatasync", "-1 EIO (Input/output error)", 4, 4],
  ]);
  assert.ok(calls[1]?.args.includes(escaped("6744")));
  assert.equal(calls[2]?.args, "9</d>");
});
