/**
 * Random requests for a comparison with the real xenstored. xenstored fixes what a transaction sees of
 * a node when it touches the node first, this project at the start of the transaction; so that both
 * mean the same, a transaction does nothing more once something outside of it has changed: it ends.
 *
 * @module
 */
import type { SeededRandom } from "../../lib/testing/random.ts";
import { OPERATION } from "../../lib/xenstore/mod.ts";
import type { Answers, Step } from "./xenstored_pair.ts";

interface Open {
  readonly peer: string;
  readonly id: number;
  /** Something outside has changed since its start. */
  frozen: boolean;
}

const NAMES = ["a", "b", "c"] as const;
const ODD_PATHS = ["", "/", "//", "/t/", "@releaseDomain", "@introduceDomain", "@x", "bad path"];
const DOMIDS = ["0", "1", "2", "7", "9"];

/** Operations of one path: what xenstored does when that is not one string is left to chance. */
const UNDAMAGED: ReadonlySet<number> = new Set([
  OPERATION.READ,
  OPERATION.DIRECTORY,
  OPERATION.GET_PERMS,
  OPERATION.MKDIR,
  OPERATION.RM,
]);

/** Makes requests of some connections, one after another. */
export class RandomRequests {
  readonly #random: SeededRandom;
  readonly #peers: readonly string[];
  #open: Open[] = [];

  /** The first of `peers` does what only domain 0 may. */
  constructor(random: SeededRandom, peers: readonly string[]) {
    this.#random = random;
    this.#peers = peers;
  }

  /** The next request. */
  next(): Step {
    const random = this.#random;
    const live = this.#open.filter(({ frozen }) => !frozen);
    if (live.length > 0 && random.below(3) > 0) {
      const { peer, id } = random.pick(live);
      return this.#step(peer, random.oneIn(9) ? this.#end() : this.#work(), id);
    }
    if (this.#open.length > 0 && random.oneIn(4)) {
      const { peer, id } = random.pick(this.#open);
      return this.#step(peer, this.#end(), id);
    }
    const peer = random.pick(this.#peers);
    if (random.oneIn(8)) return this.#step(peer, [OPERATION.TRANSACTION_START, "|"], 0);
    if (random.oneIn(60)) return this.#step(peer, this.#work(), 1 + random.below(9));
    return this.#step(peer, this.#outside(peer), 0);
  }

  /** What came of the last request. */
  learn({ peer, type, transactionId, payload }: Step, { theirs, reply }: Answers): void {
    if (type === OPERATION.TRANSACTION_START && reply !== null) {
      this.#open.push({ peer, id: parseInt(reply), frozen: false });
    }
    if (type === OPERATION.RESET_WATCHES) {
      this.#open = this.#open.filter((each) => each.peer !== peer);
    }
    const ended = type === OPERATION.TRANSACTION_END && (payload === "T|" || payload === "F|");
    if (ended) {
      this.#open = this.#open.filter((each) => each.peer !== peer || each.id !== transactionId);
    }
    const looks = [OPERATION.READ, OPERATION.DIRECTORY, OPERATION.GET_PERMS, OPERATION.WATCH]
      .some((each) => each === type);
    if (looks || theirs.length === 0 || (transactionId !== 0 && !ended)) return;
    for (const each of this.#open) each.frozen = true;
  }

  #step(peer: string, [type, payload]: readonly [number, string], transactionId: number): Step {
    const random = this.#random;
    let damaged = payload;
    if (UNDAMAGED.has(type)) damaged = payload;
    else if (random.oneIn(50)) damaged = payload.slice(0, -1);
    else if (random.oneIn(80)) damaged = `${payload}${random.pick(["x", "|", "x|"])}`;
    // Sent to a transaction that is frozen it would look at what has changed.
    const lost = this.#open.some((each) =>
      each.frozen && each.peer === peer && each.id === transactionId
    );
    if (lost && type !== OPERATION.TRANSACTION_END) {
      return { peer, type, transactionId: 0, payload };
    }
    return { peer, type, transactionId, payload: damaged };
  }

  #path(): string {
    const random = this.#random;
    if (random.oneIn(25)) return random.pick(ODD_PATHS);
    const names = Array.from({ length: 1 + random.below(3) }, () => random.pick(NAMES));
    const root = random.oneIn(6)
      ? random.pick(["", "/local/domain/0/", "/local/domain/1/"])
      : "/t/";
    return root + names.join("/");
  }

  #permissions(): string {
    const random = this.#random;
    const one = (): string => `${random.pick(["n", "r", "w", "b"])}${random.pick(DOMIDS)}|`;
    return Array.from({ length: 1 + random.below(random.oneIn(9) ? 8 : 3) }, one).join("");
  }

  #end(): readonly [number, string] {
    const how = this.#random.pick(["T|", "T|", "T|", "F|", this.#random.oneIn(5) ? "X|" : "T|"]);
    return [OPERATION.TRANSACTION_END, how];
  }

  /** Something that can be done in a transaction. */
  #work(): readonly [number, string] {
    const random = this.#random;
    const path = this.#path();
    switch (random.below(12)) {
      case 0:
      case 1:
        return [OPERATION.READ, `${path}|`];
      case 2:
        return [OPERATION.DIRECTORY, `${path}|`];
      case 3:
        return [OPERATION.GET_PERMS, `${path}|`];
      case 4:
        // xenstored breaks when the root goes with its owner, or at times when a special path is refused.
        if (path === "/" || path.startsWith("@")) return [OPERATION.GET_PERMS, `${path}|`];
        return [OPERATION.SET_PERMS, `${path}|${this.#permissions()}`];
      case 5:
        return [OPERATION.MKDIR, `${path}|`];
      case 6:
      case 7:
        return [OPERATION.RM, `${path}|`];
      case 8:
        return [OPERATION.DIRECTORY_PART, `${path}|${random.below(9)}|`];
      default:
        return [OPERATION.WRITE, `${path}|${random.pick(["", "1", "2", "v|w", "|"])}`];
    }
  }

  /** Something outside of transactions. */
  #outside(peer: string): readonly [number, string] {
    const random = this.#random;
    const token = random.pick(["x", "y", ""]);
    const path = random.oneIn(3) ? random.pick(["/", "/t", "@releaseDomain", "a"]) : this.#path();
    const what = random.below(40);
    if (what < 5) return [OPERATION.WATCH, `${path}|${token}|`];
    if (what < 7) return [OPERATION.UNWATCH, `${path}|${token}|`];
    if (what === 7) return [OPERATION.RESET_WATCHES, "|"];
    if (what === 8) return [random.pick([15, 16, 20, 27, 99]), "x|"];
    if (what === 9) return [OPERATION.GET_DOMAIN_PATH, `${random.pick(DOMIDS)}|`];
    if (what === 10) return [OPERATION.IS_DOMAIN_INTRODUCED, `${random.pick(DOMIDS)}|`];
    if (what === 11 && peer === this.#peers[0]) {
      return random.pick([
        [OPERATION.INTRODUCE, "7|5|2|"],
        [OPERATION.RELEASE, "7|"],
        [OPERATION.RESUME, "7|"],
        [OPERATION.SET_TARGET, "1|2|"],
        // Domain 7 is nobody's target: a domain that is one outlives its RELEASE in xenstored.
        [OPERATION.SET_TARGET, "2|3|"],
        [OPERATION.SET_PERMS, "@releaseDomain|n0|r1|"],
        [OPERATION.SET_PERMS, "@releaseDomain|n0|"],
      ]);
    }
    return this.#work();
  }
}
