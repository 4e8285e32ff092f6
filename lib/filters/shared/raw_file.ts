/**
 * The type of raw files as a context opens them.
 *
 * @module
 */
import type { OpenContext } from "../../block/context.ts";

/** An open raw file. */
export type RawFile = ReturnType<OpenContext["files"]["open"]>;
