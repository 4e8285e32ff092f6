/**
 * What several commands begin with: the registry, with modules from `--backend` in it.
 *
 * @module
 */
import { defaultRegistry } from "../backends/mod.ts";
import { describeOptions } from "../lib/block/options.ts";
import type { Registry } from "../lib/block/registry.ts";
import { type Spec, withDefaultOption } from "../lib/block/spec.ts";
import { registerModule } from "../lib/daemon/external_backend.ts";

/** The help of `--backend`. */
export const BACKEND_HELP = "load a backend from a TypeScript file (repeatable)";

/** The registry of all backends, and of those in the files that `--backend` named. */
export async function registryWith(files: readonly string[] = []): Promise<Registry> {
  const registry = defaultRegistry();
  for (const file of files) await registerModule(registry, file);
  return registry;
}

/**
 * A destination as it is opened: where its kind has a size (a file that is created, memory) and none is
 * told, it gets `size` (bytes).
 */
export function sizedLike(registry: Registry, spec: Spec, size: number): Spec {
  const { argument, options } = registry.find(spec);
  if (!describeOptions(options).some(({ name }) => name === "size")) return spec;
  if (argument === "size" && spec.argument !== "") return spec;
  return withDefaultOption(spec, "size", size);
}
