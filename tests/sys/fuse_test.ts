/**
 * The end of a FUSE mount as its server sees it. Needs root and a kernel with /dev/fuse; a test is skipped
 * where they are missing and says so.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { FUSE_MAJOR } from "../../lib/fuse/constants.ts";
import { encodeInit } from "../../lib/fuse/replies.ts";
import { decodeRequest } from "../../lib/fuse/requests.ts";
import {
  FUSE_ENDED,
  FUSE_NOTHING,
  mountFuse,
  openFuse,
  readFuseRequest,
  unmount,
  writeFuseReply,
} from "../../lib/sys/fuse.ts";
import { closeDescriptor } from "../../lib/sys/socket.ts";
import { FUSE_LACK } from "../support/fuse.ts";
import { canMount, withMount } from "../support/mounts.ts";
import { withTempDir } from "../support/tools.ts";

const REQUEST_BYTES_MAX = 2 ** 20 + 4096;
/** FUSE_ABORT_ERROR of fuse.h: who reads after an abort gets ECONNABORTED, and not ENODEV. */
const INIT_ABORT_ERROR = 1 << 21;

async function fuseTest(name: string, fn: (folder: string) => Promise<void>): Promise<void> {
  const lack = FUSE_LACK ?? (await canMount() ? null : "losetup and mount");
  Deno.test({
    name: lack === null ? name : `${name} (skipped: needs ${lack})`,
    ignore: lack !== null,
    fn: () => withTempDir(fn),
  });
}

/** Calls `fn` with a mount whose kernel has been told `flags`. */
async function withFuse(
  folder: string,
  flags: number,
  fn: (path: string, fd: number) => void | Promise<void>,
): Promise<void> {
  const path = join(folder, "mount");
  await Deno.mkdir(path);
  const fd = openFuse();
  try {
    begin(path, fd, flags);
    await fn(path, fd);
  } finally {
    unmount(path, true);
    closeDescriptor(fd);
  }
}

/** Mounts, and answers the request that the kernel begins with. */
function begin(path: string, fd: number, flags: number): void {
  mountFuse(fd, { path, root: "folder", source: "x", kind: "dmutest", readBytesMax: 4096 });
  const bytes = new Uint8Array(REQUEST_BYTES_MAX);
  const length = readFuseRequest(fd, bytes);
  const request = decodeRequest(bytes.subarray(0, length));
  assert.ok(request.kind === "init");
  assert.equal(request.major, FUSE_MAJOR);
  writeFuseReply(fd, encodeInit(request.unique, { readAheadMax: request.readAheadMax, flags }));
  assert.equal(readFuseRequest(fd, bytes), FUSE_NOTHING);
}

/** The number of the connection behind a mount: that of its device. */
async function connectionOf(path: string): Promise<string> {
  const lines = (await Deno.readTextFile("/proc/self/mountinfo")).split("\n");
  const fields = lines.map((line) => line.split(" ")).find((each) => each[4] === path);
  const number = fields?.[2]?.split(":")[1];
  assert.ok(number !== undefined, `${path} is mounted`);
  return number;
}

await fuseTest("readFuseRequest() tells the end when the mount is taken away", (folder) => {
  return withFuse(folder, 0, (path, fd) => {
    assert.ok(unmount(path, false));
    assert.equal(readFuseRequest(fd, new Uint8Array(REQUEST_BYTES_MAX)), FUSE_ENDED);
    assert.equal(writeFuseReply(fd, encodeInit(77, { readAheadMax: 0, flags: 0 })), false);
  });
});

// The same error comes to a server that reads a request just while the last user of its mount goes.
await fuseTest("readFuseRequest() tells the end when the mount is aborted", (folder) => {
  return withFuse(folder, INIT_ABORT_ERROR, async (path, fd) => {
    const control = join(folder, "control");
    await Deno.mkdir(control);
    await withMount(control, "fusectl", [], async () => {
      await Deno.writeTextFile(join(control, await connectionOf(path), "abort"), "1");
    });
    assert.equal(readFuseRequest(fd, new Uint8Array(REQUEST_BYTES_MAX)), FUSE_ENDED);
  });
});
