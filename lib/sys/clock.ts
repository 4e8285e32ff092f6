/**
 * The monotonic clock of the system, for whoever reads it for each request: a third of the cost of
 * `performance.now`. See clock_gettime(2).
 *
 * @module
 */
import {
  CLOCK_MONOTONIC,
  PR_SET_TIMERSLACK,
  SC_NPROCESSORS_ONLN,
  socketCalls,
} from "./socket_calls.ts";

/** struct timespec: two numbers of 64 bits, of which the lower halves are enough (68 years after boot). */
const TIME = new Int32Array(4);
const TIME_BYTES = new Uint8Array(TIME.buffer);
const SECONDS_AT = 0, NANOSECONDS_AT = 2;

/** Time since some moment, in µs. */
export function monotonicUs(): number {
  socketCalls().clock_gettime(CLOCK_MONOTONIC, TIME_BYTES);
  return (TIME[SECONDS_AT] ?? 0) * 1e6 + (TIME[NANOSECONDS_AT] ?? 0) / 1e3;
}

/** By how much the system may prolong short sleeps of a thread, in ns; it is 50 µs for all others. */
const TIMER_SLACK_NS = 1_000n;

/** Makes short sleeps of this thread exact. */
export function sharpenSleep(): void {
  socketCalls().prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
}

/** Sleeps for a whole number of µs; a signal ends it early. */
export function sleepUs(us: number): void {
  socketCalls().usleep(us);
}

/** Processors of this machine, also those that this process may not use. */
export function processorsOnline(): number {
  return Number(socketCalls().sysconf(SC_NPROCESSORS_ONLN));
}
