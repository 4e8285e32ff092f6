/**
 * A planted server bug: a file whose flush does nothing, and whose writes may lag behind their
 * replies. It claims the opposite, so that the Device does not make up for it. Loaded with `--backend`.
 *
 * @module
 */
import { countOption, optionSchema, pathOption, sizeOption } from "../../lib/block/options.ts";
import type { BackendType, Opened } from "../../lib/block/types.ts";

/** What it is told. */
export interface CarelessOptions {
  readonly path: string;
  readonly size: number;
  readonly behind: number;
}

/** `careless:PATH?size=…`, with `behind` as the number of writes that are kept back. */
export const careless: BackendType<CarelessOptions> = {
  name: "careless",
  summary: "a file whose flush does nothing",
  argument: "path",
  options: optionSchema<CarelessOptions>({
    path: pathOption({ summary: "the file" }),
    size: sizeOption({ summary: "size of the file to create if there is none" }),
    behind: countOption({ summary: "writes that are kept back", default: 0 }),
  }),
  open({ path, size, behind }, { files }): Promise<Opened> {
    const file = files.open(path, { readOnly: false, createSize: size, direct: false, lock: true });
    const late: { readonly bytes: Uint8Array; readonly offset: number }[] = [];
    const backend = {
      geometry: { size, minimum: 1, preferred: 4096, maximum: 1 << 26, readOnly: false },
      capabilities: { synchronous: true, fua: true },
      read: (into: Uint8Array, offset: number): void => file.read(into, offset),
      write(from: Uint8Array, offset: number): void {
        late.push({ bytes: from.slice(), offset });
        const next = late.length > behind ? late.shift() : undefined;
        if (next !== undefined) file.write(next.bytes, next.offset);
      },
      flush: (): void => {},
      [Symbol.asyncDispose]: (): Promise<void> => Promise.try(() => file.close()),
    };
    return Promise.resolve({ backend });
  },
};
