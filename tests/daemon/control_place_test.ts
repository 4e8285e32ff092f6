/** Where the control socket is: named, from the environment, by default; whose folder it may be in. @module */
import assert from "node:assert/strict";
import { UsageError } from "../../lib/block/usage_error.ts";
import {
  checkControlFolder,
  controlPlace,
  formatControlPlace,
  makeControlFolder,
} from "../../lib/daemon/control_place.ts";
import { withTempDir } from "../support/tools.ts";

function pathOf(
  variables: Readonly<Record<string, string>>,
  uid: number,
  named?: string,
): string | null {
  const place = controlPlace(named, { env: (name) => variables[name], uid });
  return place === null ? null : place.endpoint.path;
}

Deno.test("controlPlace() takes what is named, then DMU_CONTROL, then the default", async () => {
  await withTempDir((folder) => {
    const all = { DMU_CONTROL: "unix:/a/c", XDG_RUNTIME_DIR: folder, TMPDIR: "/t" };
    assert.equal(pathOf(all, 7, "unix:/b/c?mode=0660"), "/b/c");
    assert.equal(pathOf(all, 7), "/a/c");
    assert.equal(pathOf({ ...all, DMU_CONTROL: "" }, 7), `${folder}/dmu/control.sock`);
    assert.equal(pathOf({ XDG_RUNTIME_DIR: folder }, 0), `${folder}/dmu/control.sock`);
    const missing = { XDG_RUNTIME_DIR: `${folder}/none` };
    assert.equal(pathOf(missing, 0), "/run/dmu/control.sock");
    assert.equal(pathOf(missing, 7), "/tmp/dmu-7/control.sock");
    assert.equal(pathOf({ XDG_RUNTIME_DIR: ".", TMPDIR: "/t" }, 7), "/t/dmu-7/control.sock");
    assert.equal(pathOf({ TMPDIR: "" }, 7), "/tmp/dmu-7/control.sock");
  });
});

Deno.test("controlPlace() gives null for none, and an absolute path for a relative one", () => {
  const env = (): undefined => undefined;
  assert.equal(controlPlace("none", { env }), null);
  assert.equal(pathOf({ DMU_CONTROL: "none" }, 7), null);
  assert.equal(pathOf({ DMU_CONTROL: "none" }, 7, "unix:/c"), "/c");
  const place = controlPlace("unix:c?mode=0660", { env });
  assert.ok(place?.named);
  assert.equal(formatControlPlace(place), `unix:${Deno.cwd()}/c?mode=0660`);
});

Deno.test("controlPlace() refuses what is no unix socket, and says where it is from", () => {
  for (
    const [text, message] of [
      ["/run/c", /Cannot use "\/run\/c" as control socket: write unix:\/run\/c/],
      ["tcp:1", /write unix:PATH or none/],
      ["unix:", /path of the socket is missing/],
      [`unix:/${"x".repeat(107)}`, /at most 107 bytes/],
    ] as const
  ) {
    assert.throws(() => controlPlace(text, { env: () => undefined }), (error) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, message);
      return true;
    });
    assert.throws(() => controlPlace(undefined, { env: () => text }), /^UsageError: DMU_CONTROL: /);
  }
});

Deno.test("makeControlFolder() makes a private folder, and takes none that others can write to", async () => {
  await withTempDir((runtime) => {
    const place = controlPlace(undefined, {
      env: (name) => name === "XDG_RUNTIME_DIR" ? runtime : undefined,
    });
    assert.ok(place !== null && !place.named);
    const folder = `${runtime}/dmu`;
    checkControlFolder(place); // there is none yet
    makeControlFolder(place);
    assert.equal((Deno.statSync(folder).mode ?? 0) & 0o777, 0o700);
    makeControlFolder(place);
    assert.throws(
      () => makeControlFolder(place, (Deno.uid() ?? 0) + 1),
      /Cannot trust .*\/dmu: it belongs to another user; name another place with --control/,
    );
    Deno.chmodSync(folder, 0o770);
    assert.throws(() => checkControlFolder(place), /other users may write to it/);
    Deno.removeSync(folder);
    Deno.symlinkSync(runtime, folder);
    assert.throws(() => checkControlFolder(place), /it is not a folder/);
    checkControlFolder({ ...place, named: true });
    Deno.removeSync(folder);
  });
});
