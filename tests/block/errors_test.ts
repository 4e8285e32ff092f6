/** Tests of the errno table. @module */
import assert from "node:assert/strict";
import {
  BlockError,
  errnoFromLinux,
  errnoFromNbd,
  errnoToLinux,
  errnoToNbd,
  hasErrno,
  isErrno,
  toBlockError,
} from "../../lib/block/errors.ts";
import { SystemError } from "../../lib/sys/system_error.ts";
import { constants } from "node:os";

Deno.test("errnoToLinux() agrees with the platform's own numbers", () => {
  for (const [name, number] of Object.entries(constants.errno)) {
    if (!isErrno(name)) continue;
    assert.equal(errnoToLinux(name), number, name);
    assert.equal(errnoFromLinux(number), name);
  }
});

Deno.test("errnoToNbd() gives only values of the protocol document", () => {
  const allowed = new Set([1, 5, 12, 22, 28, 75, 95, 108]);
  for (let number = 1; number < 140; number += 1) {
    assert.ok(allowed.has(errnoToNbd(errnoFromLinux(number))), String(number));
  }
  assert.equal(errnoToNbd("EROFS"), 1);
  assert.equal(errnoToNbd("EDQUOT"), 28);
  assert.equal(errnoToNbd("EFBIG"), 28);
});

Deno.test("errnoFromNbd() treats an unknown value as EINVAL", () => {
  assert.equal(errnoFromNbd(28), "ENOSPC");
  assert.equal(errnoFromNbd(95), "EOPNOTSUPP");
  assert.equal(errnoFromNbd(4711), "EINVAL");
});

Deno.test("toBlockError() finds the errno of system, node and Deno errors", () => {
  const cases: [unknown, string, boolean][] = [
    [new BlockError("ENOSPC", "full"), "ENOSPC", true],
    [new SystemError("EACCES", "open", "/x", "permission denied"), "EACCES", true],
    [Object.assign(new Error("gone"), { code: "ENOENT" }), "ENOENT", true],
    [new Deno.errors.ConnectionReset("reset"), "ECONNRESET", true],
    [new TypeError("bug"), "EIO", false],
    ["text", "EIO", false],
  ];
  for (const [error, errno, known] of cases) {
    assert.equal(toBlockError(error).errno, errno);
    assert.equal(hasErrno(error), known);
  }
});

Deno.test("toBlockError() keeps the original as the cause", () => {
  const bug = new TypeError("x is undefined");
  assert.equal(toBlockError(bug).cause, bug);
});
