/**
 * What the simulated kernel tells of its work, for whoever debugs a daemon and for the proof that the
 * same seed gives the same run.
 *
 * @module
 */

/** What happened: to a message, to a channel, to a target. */
export type SimulatorEventKind =
  | "map"
  | "kill"
  | "take"
  | "sent"
  | "answer"
  | "complete"
  | "open"
  | "poison"
  | "interrupt"
  | "close"
  | "release"
  | "remove"
  | "free";

/** One thing that happened. */
export interface SimulatorEvent {
  /** The context clock, µs. */
  readonly timeUs: number;
  /** The target's name. */
  readonly target: string;
  /** What happened. */
  readonly kind: SimulatorEventKind;
  /** Number of the channel, from 1; null where none is concerned. */
  readonly channel: number | null;
  /** Number of the message; null where none is concerned. */
  readonly seq: number | null;
  /** More, in words; may be empty. */
  readonly text: string;
}

/** Gets every event, in order; must not call back into the simulator. */
export type SimulatorListener = (event: SimulatorEvent) => void;

/** An event in one line: `1500 disk channel 2 answer seq 7: SUCCESS`. */
export function describeEvent(event: SimulatorEvent): string {
  const { timeUs, target, kind, channel, seq, text } = event;
  const where = channel === null ? "" : ` channel ${channel}`;
  const which = seq === null ? "" : ` seq ${seq}`;
  return `${timeUs} ${target}${where} ${kind}${which}${text === "" ? "" : `: ${text}`}`;
}
