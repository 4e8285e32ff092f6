/**
 * `dmu table` and what `dmu simulate` refuses. What it does is in tests/interop/dm_user_daemon_test.ts.
 *
 * @module
 */
import assert from "node:assert/strict";
import { parseTable } from "../../lib/dm_user/table.ts";
import { dmu } from "./captured_io.ts";

Deno.test("dmu table prints the dmsetup line", async () => {
  const { code, stdout, stderr } = await dmu(["table", "disk", "--size", "1G"]);
  assert.deepEqual([code, stderr], [0, ""]);
  assert.equal(stdout, "echo '0 2097152 user 0 2097152 disk' | dmsetup create disk\n");
});

Deno.test("dmu table --json gives the parts", async () => {
  const { code, stdout } = await dmu(["table", "my-disk", "--size", "3s", "--json"]);
  assert.equal(code, 0);
  const facts: Record<string, unknown> = JSON.parse(stdout);
  assert.deepEqual(parseTable(String(facts["table"])), [{ start: 0, sectors: 3, name: "my-disk" }]);
  assert.deepEqual([facts["size"], facts["sectors"]], [1536, 3]);
  assert.equal(facts["control"], "/dev/dm-user/my-disk");
  assert.equal(facts["device"], "/dev/mapper/my-disk");
  assert.equal(facts["remove"], "dmsetup remove my-disk");
});

Deno.test("dmu table takes a control device in a folder, which no dm device can be in", async () => {
  const { code, stdout } = await dmu(["table", "vg/disk", "--size", "1G"]);
  assert.equal(code, 0);
  assert.equal(stdout, "echo '0 2097152 user 0 2097152 vg/disk' | dmsetup create vg_disk\n");
  const json = await dmu(["table", "vg/disk", "--size", "1G", "--json"]);
  const facts: Record<string, unknown> = JSON.parse(json.stdout);
  assert.equal(facts["control"], "/dev/dm-user/vg/disk");
  assert.equal(facts["device"], "/dev/mapper/vg_disk");
  assert.equal(facts["remove"], "dmsetup remove vg_disk");
});

const WRONG: readonly (readonly [args: readonly string[], message: RegExp, marked?: string])[] = [
  [["table", "disk"], /--size/],
  [["table", "di sk", "--size", "1G"], /letters, digits/, "di sk"],
  [["table", "vg//disk", "--size", "1G"], /must not be empty/, "vg//disk"],
  [["table", "vg/..", "--size", "1G"], /cannot be named ".."/, "vg/.."],
  [["table", "d".repeat(128), "--size", "1G"], /at most 127 characters/],
  [["table", "disk", "--size", "1000"], /whole sectors of 512 bytes/, "1000"],
  [["table", "disk", "--size", "0"], /whole sectors/, "0"],
  [["table", "disk", "--size", "many"], /must be a size such as/, "many"],
  [["simulate", "--mount", "m"], /target/],
  [["simulate", "disk=1M"], /--mount/],
  [["simulate", "disk", "--mount", "m"], /write NAME=SIZE/],
  [["simulate", "di sk=1M", "--mount", "m"], /letters, digits/, "di sk"],
  [["simulate", "disk=1000", "--mount", "m"], /whole sectors/, "1000"],
  [["simulate", "a=1M", "a=2M", "--mount", "m"], /two targets named a/],
  [["simulate", "a=1M", "--mount", "m", "--policy", "hope"], /wait, fail/],
  [["simulate", "a=1M", "--mount", "m", "--outstanding", "0"], /whole number from 1/],
];

for (const [args, message, marked] of WRONG) {
  Deno.test(`dmu ${args.join(" ")} is wrong usage`, async () => {
    const { code, stdout, stderr } = await dmu(args);
    assert.deepEqual([code, stdout], [2, ""]);
    assert.match(stderr, message);
    if (marked === undefined) return;
    const [, text = "", carets = ""] = stderr.split("\n");
    assert.equal(text.slice(carets.indexOf("^"), carets.lastIndexOf("^") + 1), marked);
  });
}

Deno.test("dmu simulate says what is wrong with the folder", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/file`;
    await Deno.writeTextFile(file, "");
    for (
      const [place, message] of [[folder, /it is not empty, file/], [file, /no folder/]] as const
    ) {
      const { code, stderr } = await dmu(["simulate", "disk=1M", "--mount", place]);
      assert.equal(code, 1);
      assert.match(stderr, message);
    }
    const { stderr } = await dmu(["simulate", "disk=1M", "--mount", `${folder}/a/b`]);
    assert.match(stderr, /Cannot make .*: .*no such/i);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
