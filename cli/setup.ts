/**
 * What several commands begin with: the registry, with modules from `--backend` in it.
 *
 * @module
 */
import { defaultRegistry } from "../backends/mod.ts";
import { describeOptions } from "../lib/block/options.ts";
import type { AnyBackendType, Registry } from "../lib/block/registry.ts";
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

/** True if disks of this kind can be opened with that option. */
export function hasOption({ options }: AnyBackendType, name: string): boolean {
  return describeOptions(options).some((option) => option.name === name);
}

/**
 * A destination as it is opened: where its kind has a size (a file that is created, memory) and none is
 * told, it gets `size` (bytes).
 */
export function sizedLike(registry: Registry, spec: Spec, size: number): Spec {
  const type = registry.find(spec);
  if (!hasOption(type, "size")) return spec;
  if (type.argument === "size" && spec.argument !== "") return spec;
  return withDefaultOption(spec, "size", size);
}
