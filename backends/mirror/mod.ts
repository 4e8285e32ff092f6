/**
 * `mirror`: two or more legs with the same content, and a log of the regions in which they may differ.
 * docs/backends/mirror.md says what it promises. The log is that of lib/dirty_log.
 *
 * @module
 */
import type { OpenContext } from "../../lib/block/context.ts";
import { BlockError } from "../../lib/block/errors.ts";
import {
  countOption,
  flagOption,
  omittable,
  optionSchema,
  pathOption,
  sizeOption,
  specsOption,
} from "../../lib/block/options.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import type { BackendType, Opened } from "../../lib/block/types.ts";
import type { LegSource } from "./leg.ts";
import { LEGS_MAX, LEGS_MIN } from "./limits.ts";
import { openMirror } from "./open.ts";

/** Options of the mirror backend. */
export interface MirrorOptions {
  /** The specs of its legs. */
  readonly legs: readonly string[];
  /** The file or block device of its log. */
  readonly log?: string | undefined;
  /** Bytes of a region. */
  readonly "region-size"?: number | undefined;
  /** Bytes a second that are copied at most, 0 for no limit. */
  readonly "resync-rate": number;
  /** The leg that is right at first sync, from 1. */
  readonly source: number;
  /** All legs are equal at first sync. */
  readonly nosync: boolean;
  /** Legs need not outlive the daemon. */
  readonly volatile: boolean;
}

/** A leg is known by its storage: options that it is opened with do not make it another one. */
function identityOf(text: string): string {
  const { uri, kind, argument } = parseSpec(text);
  return uri ? argument : `${kind}:${argument}`;
}

function sourceOf(text: string, { openSpec }: OpenContext): LegSource {
  return {
    name: text,
    identity: identityOf(text),
    open: () => {
      if (openSpec !== undefined) return openSpec(text);
      throw new BlockError("EINVAL", `Cannot open ${text}: there is no registry of backends here`);
    },
  };
}

function open(options: MirrorOptions, context: OpenContext): Promise<Opened> {
  const { legs, log, source, nosync, volatile } = options;
  return openMirror(legs.map((leg) => sourceOf(leg, context)), {
    log,
    regionBytes: options["region-size"],
    rate: options["resync-rate"],
    source,
    nosync,
    volatile,
  }, context);
}

/** The mirror backend. */
export const mirror: BackendType<MirrorOptions> = {
  name: "mirror",
  summary: "legs with the same content, of which one may fail",
  argument: "legs",
  options: optionSchema<MirrorOptions>({
    legs: specsOption({ summary: "the specs of the legs", min: LEGS_MIN, max: LEGS_MAX }),
    log: omittable(pathOption({ summary: "file or device of the log; memory if left out" })),
    "region-size": omittable(sizeOption({ summary: "what is marked at once: a power of two" })),
    "resync-rate": sizeOption({
      summary: "most bytes a second that are copied, 0 is any",
      default: 0,
    }),
    source: countOption({
      summary: "the leg that is right at first sync",
      default: 1,
      min: 1,
      max: LEGS_MAX,
    }),
    nosync: flagOption({ summary: "all legs are equal at first sync", default: false }),
    volatile: flagOption({ summary: "without a log: legs need not outlive it", default: false }),
  }),
  waits: true,
  open: (options, context) => Promise.try(open, options, context),
};
