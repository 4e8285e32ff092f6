/** Tests of lib/sys/std_fs.ts. @module */
import assert from "node:assert/strict";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { ensureDir, exists } from "@std/fs";
import { withTempDir } from "../support/tools.ts";

Deno.test("ensureDir() makes a directory and those above it, once or again", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "a", "b", "c");
    await ensureDir(path);
    await ensureDir(path);
    assert.ok((await Deno.stat(path)).isDirectory);
    await ensureDir(pathToFileURL(join(folder, "url")));
    assert.ok((await Deno.stat(join(folder, "url"))).isDirectory);
  }));

Deno.test("ensureDir() throws when a file has the name", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "file");
    await Deno.writeTextFile(path, "");
    await assert.rejects(ensureDir(path), Deno.errors.AlreadyExists);
    await assert.rejects(ensureDir(join(path, "below")), Error);
  }));

Deno.test("exists() answers for what it is asked", () =>
  withTempDir(async (folder) => {
    const path = join(folder, "file");
    await Deno.writeTextFile(path, "");
    await Deno.symlink("nowhere", join(folder, "dangling"));
    const rows: [string, Parameters<typeof exists>[1], boolean][] = [
      [path, undefined, true],
      [path, { isFile: true }, true],
      [path, { isDirectory: true }, false],
      [path, { isReadable: true }, true],
      [folder, { isDirectory: true }, true],
      [folder, { isFile: true }, false],
      [folder, { isDirectory: true, isReadable: true }, true],
      [join(folder, "absent"), undefined, false],
      [join(folder, "dangling"), undefined, false],
    ];
    for (const [subject, options, expected] of rows) {
      assert.equal(
        await exists(subject, options),
        expected,
        `${subject} ${JSON.stringify(options)}`,
      );
    }
    await assert.rejects(exists(path, { isFile: true, isDirectory: true }), TypeError);
  }));
