/**
 * Lives of mirrors in a world that goes wrong: operations, failing legs, crashes and new beginnings, by
 * seeded chance.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type Bug, MirrorWorld } from "./mirror_world.ts";

/** What happens in one life of a world. */
export interface Plan {
  /** A bug that is planted. */
  readonly bug?: Bug;
  /** 2 if left out. */
  readonly legs?: number;
  /** Ends of the process or machine. */
  readonly crashes: number;
  /** Legs fail. */
  readonly failures: boolean;
  /** Operations in flight, at most; 6 if left out. */
  readonly depth?: number;
}

/** One life: the same seed and plan give the same one. Throws AssertionError if a promise is broken. */
export async function live(
  seed: number,
  { bug = "none", legs = 2, crashes, failures, depth = 6 }: Plan,
): Promise<MirrorWorld> {
  const world = new MirrorWorld(seed, bug, legs, !failures);
  await world.open();
  for (let life = 0; life <= crashes; life += 1) {
    const inFlight = new Set<Promise<void>>(), wrong: unknown[] = [];
    const steps = 10 + world.random.below(60);
    for (let step = 0; step < steps; step += 1) {
      const operation = world.begin().catch((error: unknown) => void wrong.push(error))
        .finally(() => inFlight.delete(operation));
      inFlight.add(operation);
      if (inFlight.size >= depth) await Promise.race(inFlight);
      if (failures && world.chance(20)) world.breakLeg();
      if (failures && world.chance(25)) {
        world.heal();
        await world.addMissing();
      }
      // Long enough for regions to be cleared, now and then.
      await world.turns(world.chance(10) ? 3_000 : 60);
      if (wrong.length > 0) throw wrong[0];
    }
    if (life === crashes) {
      await Promise.all(inFlight);
      if (wrong.length > 0) throw wrong[0];
      await world.checkEqual();
      return world;
    }
    await world.crash(world.chance(2) ? "kill" : "power", [...inFlight]);
    if (wrong.length > 0) throw wrong[0];
    world.checkMedia();
    await reopen(world, failures);
  }
  return world;
}

/** The next start may lack legs; if nothing in sync is there it says so, and all come back. */
async function reopen(world: MirrorWorld, failures: boolean): Promise<void> {
  world.heal();
  if (failures && world.chance(3)) {
    const away = world.faults[world.random.below(world.faults.length)];
    if (away !== undefined) away.open = true;
    try {
      return await world.open();
    } catch (error) {
      assert.match(String(error), /no leg that can be opened|is needed when/);
      world.heal();
    }
  }
  await world.open();
}
