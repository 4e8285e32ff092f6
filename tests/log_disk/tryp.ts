import { loadWithBug, PLANTED_FAMILY_BUGS } from "./simulation/planted.ts";
import { familyScenarioOf, simulateFamily } from "./simulation/family.ts";
import { AssertionError } from "node:assert";
for (
  const bug of PLANTED_FAMILY_BUGS.filter((b) =>
    Deno.args[1] === undefined || b.name.includes(Deno.args[1])
  )
) {
  const dir = Deno.makeTempDirSync();
  const engine = await loadWithBug(bug, dir);
  const t = performance.now();
  let found = -1;
  let msg = "";
  for (let s = 0; s < Number(Deno.args[0]); s++) {
    try {
      await simulateFamily(engine, familyScenarioOf(s));
    } catch (e) {
      found = s;
      msg = String(e).split("\n")[0] + (e instanceof AssertionError ? "" : " NOT ASSERTION");
      break;
    }
  }
  console.log(bug.name, "=>", found, msg, Math.round(performance.now() - t));
  Deno.removeSync(dir, { recursive: true });
}
