/**
 * Tests of lib/sys/file_lock.ts: two openings of one file in this process, in two processes, and
 * against qemu, whose image locks are on the same bytes.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { systemFiles } from "../../lib/sys/file.ts";
import type { RawFile } from "../../lib/sys/file_access.ts";
import { interopTest, runFails, runOk, toolPath, withTempDir } from "../support/tools.ts";

const IN_USE = {
  name: "SystemError",
  code: "EAGAIN",
  message: /it is in use by another process; end that, or/,
};

function open(path: string, readOnly: boolean, lock = true): RawFile {
  return systemFiles.open(path, { readOnly, lock, direct: false, createSize: 1 << 20 });
}

/** Calls `fn` while this process holds a file open. */
function whileOpen(
  readOnly: boolean,
  fn: (path: string) => void | Promise<void>,
  lock = true,
): Promise<void> {
  return withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    open(path, false).close();
    const file = open(path, readOnly, lock);
    try {
      await fn(path);
    } finally {
      file.close();
    }
    open(path, false).close(); // closing has released the lock
  });
}

const OPENINGS: readonly [
  first: "reader" | "writer",
  second: "reader" | "writer",
  fits: boolean,
][] = [
  ["writer", "writer", false],
  ["writer", "reader", false],
  ["reader", "writer", false],
  ["reader", "reader", true],
];

/** Opens the file in a process of its own, which prints what came of it. */
function openElsewhere(path: string, readOnly: boolean, lock: boolean): Promise<string> {
  const source = `
    import { systemFiles } from ${JSON.stringify(import.meta.resolve("../../lib/sys/file.ts"))};
    try {
      const options = { readOnly: ${readOnly}, direct: false, lock: ${lock} };
      systemFiles.open(${JSON.stringify(path)}, options).close();
      await Deno.stdout.write(new TextEncoder().encode("opened"));
    } catch (error) {
      await Deno.stdout.write(new TextEncoder().encode(error.code));
    }`;
  return runOk(Deno.execPath(), ["eval", "--no-lock", source]);
}

for (const [first, second, fits] of OPENINGS) {
  const result = fits ? "share a file" : "exclude each other";

  Deno.test(`a ${first} and then a ${second} of one process ${result}`, () =>
    whileOpen(first === "reader", (path) => {
      const again = (): void => open(path, second === "reader").close();
      if (fits) again();
      else assert.throws(again, IN_USE);
    }));

  Deno.test(`a ${first} and then a ${second} of another process ${result}`, () =>
    whileOpen(first === "reader", async (path) => {
      const found = await openElsewhere(path, second === "reader", true);
      assert.equal(found, fits ? "opened" : "EAGAIN");
    }));
}

Deno.test("without lock nobody is kept out", () =>
  whileOpen(false, async (path) => {
    assert.equal(await openElsewhere(path, false, false), "opened");
  }));

interopTest(
  "qemu keeps off a file that is being written",
  ["qemu-img"],
  () =>
    whileOpen(false, async (path) => {
      const convert = ["convert", "-f", "raw", "-O", "raw", path, `${path}.copy`];
      assert.match(await runFails("qemu-img", convert), /lock/);
      assert.match(await runFails("qemu-img", ["resize", "-f", "raw", path, "2M"]), /lock/);
      await runOk("qemu-img", ["convert", "--force-share", ...convert.slice(1)]);
    }),
);

interopTest(
  "qemu reads a file that is being read and does not write it",
  ["qemu-img", "qemu-io"],
  () =>
    whileOpen(true, async (path) => {
      await runOk("qemu-img", ["info", "-f", "raw", path]);
      await runOk("qemu-io", ["-r", "-f", "raw", "-c", "read 0 4k", path]);
      assert.match(await runFails("qemu-io", ["-f", "raw", "-c", "write 0 4k", path]), /lock/);
    }),
);

/** Calls `fn` while qemu-io has the file open. */
async function whileQemuHas(
  path: string,
  args: readonly string[],
  fn: () => void,
): Promise<void> {
  const child = new Deno.Command(toolPath("qemu-io"), {
    args: [...args, "-f", "raw", path],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const writer = child.stdin.getWriter();
  // A command's answer shows that the file is open, and holds its locks.
  await writer.write(new TextEncoder().encode("length\n"));
  const reader = child.stdout.getReader();
  let text = "";
  while (!text.includes("1 MiB")) {
    const { value, done } = await reader.read();
    assert.ok(!done, `qemu-io ended: ${text}`);
    text += new TextDecoder().decode(value);
  }
  try {
    fn();
  } finally {
    await writer.write(new TextEncoder().encode("quit\n"));
    await writer.close();
    while (!(await reader.read()).done);
    await child.status;
  }
}

interopTest("a file that qemu writes is in use", ["qemu-io"], () =>
  withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    open(path, false).close();
    await whileQemuHas(path, [], () => {
      assert.throws(() => open(path, false), IN_USE);
      assert.throws(() => open(path, true), IN_USE);
    });
    open(path, false).close();
  }));

interopTest("a file that qemu reads can be read", ["qemu-io"], () =>
  withTempDir(async (folder) => {
    const path = join(folder, "disk.img");
    open(path, false).close();
    await whileQemuHas(path, ["-r"], () => open(path, true).close());
  }));
