/**
 * The formats of traces that there are.
 *
 * @module
 */
import type { TraceFormat } from "../source.ts";
import { native } from "./native.ts";

/** All formats; those whose beginning tells them apart come before those that are guessed. */
export const formats: readonly TraceFormat[] = [native];
