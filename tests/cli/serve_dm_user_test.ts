/** `dmu serve --dm-user` in this process: what it refuses, and what it says where nothing is to serve. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import { dmu, temporaryFolder } from "./captured_io.ts";

Deno.test("dmu serve refuses dm-user options that do not fit together", async () => {
  const rows: readonly (readonly [args: readonly string[], message: RegExp])[] = [
    [["memory:1M", "--channels", "2"], /^dmu: Cannot open --channels of nothing: add --dm-user/],
    [["a=memory:1M", "--dm-user", "d"], /there is no target "d"; write TARGET=d with one of a\n/],
    [["d=memory:1M", "--dm-user", "d", "--dm-user", "d=d"], /"d": it is given twice\n/],
    [["d=memory:1M", "--dm-user", "d", "--channels", "65"], /whole number from 1 to 64/],
    [["d=memory:1M", "--dm-user", "d=../x"], /has to be a path below the folder/],
  ];
  for (const [args, message] of rows) {
    const { code, stdout, stderr } = await dmu(["serve", ...args]);
    assert.deepEqual([code, stdout], [2, ""], args.join(" "));
    assert.match(stderr, message);
  }
});

Deno.test("dmu serve --dm-user says what to load or make, and exits with 1", async () => {
  await using folder = await temporaryFolder();
  const none = join(folder.path, "none");
  const args = ["serve", "d=memory:1M", "--dm-user", "d", "--dm-user-dir"];
  const without = await dmu([...args, none]);
  assert.deepEqual([without.code, without.stdout], [1, ""]);
  assert.equal(
    without.stderr,
    `dmu: Cannot open ${none}/d: there is no ${none}: load the module (modprobe dm-user), then make ` +
      "the target (dmu table d --size 1048576 | sh)\n",
  );
  const empty = await dmu([...args, folder.path]);
  assert.equal(empty.code, 1);
  assert.match(
    empty.stderr,
    /has no target of this name: make it \(dmu table d --size 1048576 \| sh\)/,
  );
});
