/**
 * What several commands begin with: the registry, with modules from `--backend` in it.
 *
 * @module
 */
import { defaultRegistry } from "../backends/mod.ts";
import type { Registry } from "../lib/block/registry.ts";
import { registerModule } from "../lib/daemon/external_backend.ts";

/** The help of `--backend`. */
export const BACKEND_HELP = "load a backend from a TypeScript file (repeatable)";

/** The registry of all backends, and of those in the files that `--backend` named. */
export async function registryWith(files: readonly string[] = []): Promise<Registry> {
  const registry = defaultRegistry();
  for (const file of files) await registerModule(registry, file);
  return registry;
}
