/**
 * `dmu log serve` over the socket type of the real kernel, in a network namespace of its own: a mirror's
 * life, a daemon that is killed or stopped, noise, a thousand logs; and without the right to answer.
 *
 * @module
 */
import assert from "node:assert/strict";
import { interopTest, runFails, runOk, scriptProgram, withTempDir } from "../support/tools.ts";

const KERNEL = new URL("./dirty_log_kernel.ts", import.meta.url);
const MAIN = new URL("../../cli/main.ts", import.meta.url);
/** Time in ms for the whole play. */
const PLAY_MS_MAX = 300_000;

interopTest("dmu log serve answers a kernel over the connector", ["unshare"], async () => {
  await withTempDir(async (folder) => {
    const args = ["--net", ...scriptProgram(KERNEL), `${folder}/logs`];
    const played = JSON.parse(await runOk("unshare", args, { timeoutMs: PLAY_MS_MAX }));
    assert.ok(played.lateAnswers >= 3, "answers came too late");
    assert.ok(played.rate > 0);
  });
});

interopTest("dmu log serve says what it needs", ["unshare", "setpriv"], async () => {
  const program = ["--net", "setpriv", "--bounding-set", "-sys_admin", ...scriptProgram(MAIN)];
  const refused = await runFails("unshare", [...program, "log", "serve"]);
  assert.match(refused, /Cannot serve logs: .* CAP_SYS_ADMIN, run as root/);
});
