/**
 * The formats of traces that there are.
 *
 * @module
 */
import type { TraceFormat } from "../source.ts";
import { alibaba } from "./alibaba.ts";
import { blkreplay } from "./blkreplay.ts";
import { blktrace } from "./blktrace.ts";
import { dmLogWrites } from "./dm_log_writes.ts";
import { fio, fio2 } from "./fio.ts";
import { msrCambridge } from "./msr_cambridge.ts";
import { native } from "./native.ts";
import { nbdLog } from "./nbd_log.ts";
import { tencent } from "./tencent.ts";

/** All formats; those whose beginning tells them apart come before those that are guessed. */
export const formats: readonly TraceFormat[] = [
  native,
  dmLogWrites,
  nbdLog,
  blktrace,
  fio,
  fio2,
  msrCambridge,
  alibaba,
  tencent,
  blkreplay,
];
