/**
 * Which driver moves the bytes of a target, as a user writes it.
 *
 * @module
 */
import type { DriverName } from "./target.ts";

/** Which driver is wanted: "auto" is "blocking" wherever that can be. */
export type DriverChoice = DriverName | "auto";

/** All of them, as they are written. */
export const DRIVER_CHOICES: readonly DriverChoice[] = ["auto", "streams", "blocking"];

/** The driver of targets of which nobody has said anything. */
export const DRIVER_DEFAULT: DriverChoice = "auto";

/** True if `text` is one of DRIVER_CHOICES. */
export function isDriverChoice(text: string): text is DriverChoice {
  return DRIVER_CHOICES.some((choice) => choice === text);
}
