/** Tests of lib/sys/errno.ts. @module */
import assert from "node:assert/strict";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import {
  cstring,
  errnoName,
  errnoWords,
  fail,
  lastErrno,
  mayLoadNow,
  prepareErrno,
  systemError,
} from "../../lib/sys/errno.ts";
import { libc } from "../../lib/sys/libc.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { runOk } from "../support/tools.ts";

const SECOND_NAMES: Readonly<Record<string, string>> = {
  ENOTSUP: "EOPNOTSUPP",
  EWOULDBLOCK: "EAGAIN",
};

Deno.test("errnoName() agrees with the platform's table", () => {
  const table = Object.entries(constants.errno);
  assert.ok(table.length > 70);
  for (const [name, number] of table) {
    assert.equal(errnoName(Number(number)), SECOND_NAMES[name] ?? name);
  }
});

Deno.test("errnoName() knows the last number and none past it", () => {
  assert.equal(errnoName(133), "EHWPOISON");
  assert.equal(errnoName(15), "ENOTBLK");
  for (const number of [-1, 0, 41, 58, 134, 512]) assert.equal(errnoName(number), "EUNKNOWN");
});

Deno.test("errnoWords() gives the C library's words, small at the start", () => {
  assert.equal(errnoWords(5), "input/output error");
  assert.equal(errnoWords(28), "no space left on device");
});

Deno.test("lastErrno() is that of the call before it", () => {
  prepareErrno();
  assert.equal(libc().close(-1), -1);
  assert.equal(lastErrno(), 9);
  assert.equal(libc().open(cstring("/nowhere/at/all"), 0, 0), -1);
  assert.equal(lastErrno(), 2);
});

Deno.test("fail() throws the error of the call before it", () => {
  const { close } = libc();
  assert.equal(close(-1), -1);
  assert.throws(() => fail("close", "the file"), (error) => {
    assert.ok(error instanceof SystemError);
    assert.equal(error.code, "EBADF");
    assert.equal(error.call, "close");
    assert.equal(error.message, "Cannot close the file: bad file descriptor");
    return true;
  });
});

Deno.test("systemError() takes other words", () => {
  const error = systemError(11, "open", "disk.img", "it is in use");
  assert.equal(error.code, "EAGAIN");
  assert.equal(error.message, "Cannot open disk.img: it is in use");
});

Deno.test("cstring() ends with NUL and refuses one inside", () => {
  assert.deepEqual([...cstring("aé")], [0x61, 0xc3, 0xa9, 0]);
  assert.throws(() => cstring("a\0b"), { name: "SystemError", code: "EINVAL" });
});

Deno.test("errno is one of each thread", async () => {
  const source = `
    import { libc } from ${JSON.stringify(import.meta.resolve("../../lib/sys/libc.ts"))};
    import { lastErrno } from ${JSON.stringify(import.meta.resolve("../../lib/sys/errno.ts"))};
    libc().close(-1);
    postMessage(lastErrno());`;
  const worker = new Worker(`data:application/typescript,${encodeURIComponent(source)}`, {
    type: "module",
  });
  try {
    assert.equal(libc().open(cstring("/nowhere"), 0, 0), -1);
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    worker.onmessage = ({ data }): void => resolve(data);
    worker.onerror = (event): void => reject(new Error(event.message));
    assert.equal(await promise, 9);
    assert.equal(libc().open(cstring("/nowhere"), 0, 0), -1);
    assert.equal(lastErrno(), 2);
  } finally {
    worker.terminate();
  }
});

Deno.test("mayLoadNow() is true where the tests run: on Linux with all permissions", () => {
  assert.equal(mayLoadNow(), true);
});

Deno.test("lib/sys is imported without the permission for FFI", async () => {
  const target = fileURLToPath(import.meta.resolve("../../lib/sys/file.ts"));
  await runOk(Deno.execPath(), ["run", "--no-prompt", "--no-lock", target]);
});
