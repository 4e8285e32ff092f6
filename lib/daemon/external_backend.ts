/**
 * Backends from elsewhere: a module that exports one or several backend types is loaded and
 * registered. It runs with all rights of this process.
 *
 * @module
 */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { type AnyBackendType, isBackendType, type Registry } from "../block/registry.ts";
import { UsageError } from "../block/usage_error.ts";

/**
 * Loads the module at `path`, relative to the working directory, and registers every backend type
 * that it exports. Throws UsageError if it cannot be loaded or exports none.
 */
export async function registerModule(
  registry: Registry,
  path: string,
): Promise<readonly AnyBackendType[]> {
  const module = await load(path);
  const types = Object.values(module).filter(isBackendType);
  if (types.length === 0) {
    const names = Object.keys(module).join(", ") || "nothing";
    throw new UsageError(
      `Cannot use the backend ${path}: it exports no object with name, summary, options and open ` +
        `(it exports ${names})`,
    );
  }
  for (const type of new Set(types)) registry.register(type);
  return types;
}

async function load(path: string): Promise<Readonly<Record<string, unknown>>> {
  try {
    const module: Readonly<Record<string, unknown>> = await import(
      pathToFileURL(resolve(path)).href
    );
    return module;
  } catch (error) {
    const reason = error instanceof Error ? error.message.split("\n", 1)[0] : String(error);
    throw new UsageError(`Cannot load the backend ${path}: ${reason}`, null, { cause: error });
  }
}
