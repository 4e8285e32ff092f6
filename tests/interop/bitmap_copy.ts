/**
 * A `dmu copy --since --advance` that a test kills: it prints a ready line once its point is frozen.
 *
 * @module
 */
import { ControlClient } from "../../lib/daemon/control_client.ts";
import { CapturedIo, dmu } from "../cli/captured_io.ts";

const control = Deno.env.get("DMU_CONTROL") ?? "";
const destination = Deno.env.get("COPY_TO") ?? "";

const copying = dmu(
  ["copy", "--since", "nightly", "--advance", "target:d", destination],
  new CapturedIo({ environment: { DMU_CONTROL: control } }),
);
await using client = await ControlClient.connect(control.replace(/^unix:/, ""));
for (;;) {
  const [bitmap] = await client.bitmap("d", { action: "list" });
  // The action that merges is there a moment later.
  const guarded = (await client.files()).some(({ onexit }) => onexit.length > 0);
  if (bitmap?.frozen === true && guarded) break;
}
Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify({ ready: true })}\n`));
await copying;
