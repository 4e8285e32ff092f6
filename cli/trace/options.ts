/**
 * Options of all commands that read traces.
 *
 * @module
 */
import { formats } from "../../lib/trace/formats/mod.ts";

/** The format of what is read. */
export const FROM_OPTION = [
  "--from <format>",
  `format of what is read, found out if not told: ${formats.map(({ name }) => name).join(", ")}`,
] as const;

/** The format of what is written. */
export const TO_OPTION = [
  "--to <format>",
  `format of what is written: ${
    formats.filter(({ write }) => write !== undefined).map(({ name }) => name).join(", ")
  }`,
] as const;

/** The volume of what is read. */
export const DEVICE_OPTION = [
  "--device <name>",
  "the volume or device, of a trace that has several",
] as const;

/** Overwriting. */
export const FORCE_OPTION = ["--force", "replace a file that is there"] as const;
