/**
 * The qcow2 format: decoding and encoding of everything that an image holds, without I/O,
 * and reading its small tables from a file. Follows
 * docs/interop/qcow2.rst of QEMU.
 *
 * @module
 */
export * from "./bitmap_directory.ts";
export * from "./compress.ts";
export * from "./entries.ts";
export * from "./header.ts";
export {
  type BitmapsExtension,
  decodeFeatureTable,
  encodeFeatureTable,
  type FeatureName,
  type HeaderExtension,
} from "./header_extensions.ts";
export * from "./snapshot_table.ts";
export * from "../read_tables.ts";
