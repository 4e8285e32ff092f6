/** `ram`: a disk in one array. @module */
import { type BackendType, optionSchema, sizeOption } from "../../mod.ts";

export const ram: BackendType<{ readonly size: number }> = {
  name: "ram",
  summary: "a disk in one array",
  options: optionSchema({ size: sizeOption({ summary: "size of the disk" }) }),
  argument: "size",
  open: ({ size }, { readOnly }) => {
    const bytes = new Uint8Array(size);
    return Promise.resolve({
      backend: {
        geometry: { size, minimum: 1, preferred: 4096, maximum: 2 ** 20, readOnly },
        capabilities: { synchronous: true, fua: true },
        read: (into, offset) => into.set(bytes.subarray(offset, offset + into.length)),
        write: (from, offset) => bytes.set(from, offset),
        flush: () => {},
        [Symbol.asyncDispose]: () => Promise.resolve(),
      },
    });
  },
};
