/**
 * The server's side of the fixed newstyle handshake: a state machine from bytes to a result, without
 * I/O and clock. Options live in options/; here are the order of things, the rules that hold for all
 * options, and the limits. Implements the section "Handshake" and the modes of TLS.
 *
 * @module
 */
import type { ByteSession, OutputBuffer } from "../stream/session.ts";
import { HANDSHAKE, INIT_MAGIC, OPTION, OPTION_MAGIC, optionName, REPLY } from "./constants.ts";
import {
  Haggling,
  type HandshakeOptions,
  type HandshakeResult,
  type OptionOutcome,
} from "./haggling.ts";
import {
  HANDSHAKE_AHEAD_BYTES_MAX,
  HANDSHAKE_OUTPUT_BYTES_MAX,
  OPTION_DATA_BYTES_MAX,
  OPTION_SKIP_BYTES_MAX,
  OPTIONS_PER_HANDSHAKE_MAX,
} from "./limits.ts";
import { OPTION_HANDLERS } from "./options/mod.ts";

const SERVER_FLAGS = HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES;
const OPTION_HEADER_BYTES = 16;
const NOTHING = new Uint8Array(0);

/** Options that a client may use before TLS where TLS is required. */
const BEFORE_TLS: readonly number[] = [OPTION.STARTTLS, OPTION.ABORT];
/** Options that lead out of the handshake, into what there is a limit of. */
const LETS_IN: readonly number[] = [OPTION.EXPORT_NAME, OPTION.GO, OPTION.STARTTLS];

/**
 * One handshake. Give it bytes with `receive`, send what `takeOutput` gives until that is null, then
 * look at `result`. It never throws for what a client sends: a client that breaks the protocol gets
 * the result "close".
 */
export class ServerHandshake implements ByteSession {
  /** How it ended; null while it goes on. */
  result: HandshakeResult | null = null;
  /** Nothing changes outside `receive` and `takeOutput`, so it is never called. */
  onWake: (() => void) | null = null;

  readonly #haggling: Haggling;
  #input: Uint8Array = NOTHING;
  /** Range of unread bytes in `#input`. */
  #from = 0;
  #to = 0;
  #wantsFlags: boolean;
  #optionCount = 0;
  /** Data of an option that is too long to look at: what is left of it. */
  #skipBytes = 0;
  #skippedOption = 0;
  /** Options wait because too many replies are unsent. */
  #blocked = false;

  /** Greets, unless this handshake goes on after STARTTLS. */
  constructor(options: HandshakeOptions) {
    this.#haggling = new Haggling(options);
    this.#wantsFlags = !options.secured;
    if (!options.secured) {
      this.#haggling.output.u64(INIT_MAGIC).u64(OPTION_MAGIC).u16(SERVER_FLAGS);
    }
  }

  /** False while options wait for replies to be sent, and after the end. */
  get ready(): boolean {
    return this.result === null && !this.#blocked;
  }

  /** There is a result. */
  get finished(): boolean {
    return this.result !== null;
  }

  /** Takes what the client sent. */
  receive(chunk: Uint8Array): void {
    if (this.result !== null) {
      // Bytes in the clear that come where TLS has to begin may have been put there by a third party.
      if (this.result.kind === "starttls") this.#close("bytes came between STARTTLS and TLS");
      return;
    }
    this.#append(chunk);
    this.#pump();
    if (this.result === null && this.#to - this.#from > HANDSHAKE_AHEAD_BYTES_MAX) {
      this.#close("the client sends options without waiting for replies");
    }
  }

  /** What is to be sent next. Options that had to wait for it are answered on the way. */
  takeOutput(): OutputBuffer | null {
    const { output } = this.#haggling;
    if (output.length === 0 && this.#blocked) this.#pump();
    return output.length === 0 ? null : { bytes: output.take(), release: () => {} };
  }

  /** The connection is gone. */
  end(_cause: unknown): void {
    if (this.result === null) this.#close("the client went away");
    this.#haggling.output.clear();
  }

  #append(chunk: Uint8Array): void {
    const unread = this.#to - this.#from;
    if (unread === 0) {
      this.#input = chunk;
      this.#from = 0;
      this.#to = chunk.length;
      return;
    }
    // A chunk that was kept is another's memory: it is full, so that growing copies it first.
    if (this.#to + chunk.length > this.#input.length) {
      const grown = new Uint8Array((unread + chunk.length) * 2);
      grown.set(this.#input.subarray(this.#from, this.#to));
      this.#input = grown;
      this.#from = 0;
      this.#to = unread;
    }
    this.#input.set(chunk, this.#to);
    this.#to += chunk.length;
  }

  #pump(): void {
    this.#blocked = false;
    while (this.result === null && this.#step()) {
      if (this.#haggling.output.length >= HANDSHAKE_OUTPUT_BYTES_MAX) {
        this.#blocked = this.result === null;
        return;
      }
    }
  }

  /** Takes the next thing out of the input; false if it is not there as a whole. */
  #step(): boolean {
    const available = this.#to - this.#from;
    if (this.#wantsFlags) {
      if (available < 4) return false;
      this.#clientFlags(this.#view(4).getUint32(0));
      this.#from += 4;
      return true;
    }
    if (this.#skipBytes > 0) return this.#skip(available);
    if (available < OPTION_HEADER_BYTES) return false;
    const header = this.#view(OPTION_HEADER_BYTES);
    if (header.getBigUint64(0) !== OPTION_MAGIC) {
      this.#close("what came is not an option");
      return false;
    }
    const option = header.getUint32(8);
    const length = header.getUint32(12);
    if (length > OPTION_DATA_BYTES_MAX) return this.#beginSkip(option, length);
    if (available < OPTION_HEADER_BYTES + length) return false;
    const start = this.#from + OPTION_HEADER_BYTES;
    this.#from = start + length;
    this.#answer(option, this.#input.subarray(start, start + length));
    return true;
  }

  #view(length: number): DataView {
    return new DataView(this.#input.buffer, this.#input.byteOffset + this.#from, length);
  }

  #clientFlags(flags: number): void {
    this.#wantsFlags = false;
    this.#haggling.clientFlags = flags;
    if ((flags & ~SERVER_FLAGS) !== 0) {
      this.#close(`the client set unknown flags, 0x${flags.toString(16)}`);
    }
  }

  #beginSkip(option: number, length: number): boolean {
    if (length > OPTION_SKIP_BYTES_MAX) {
      this.#close(`option ${optionName(option)} with ${length} bytes of data`);
      return false;
    }
    this.#from += OPTION_HEADER_BYTES;
    this.#skippedOption = option;
    this.#skipBytes = length;
    return true;
  }

  #skip(available: number): boolean {
    if (available === 0) return false;
    const count = Math.min(available, this.#skipBytes);
    this.#from += count;
    this.#skipBytes -= count;
    if (this.#skipBytes === 0) this.#answer(this.#skippedOption, null);
    return true;
  }

  /** `data` is null if they were too long to look at. */
  #answer(option: number, data: Uint8Array | null): void {
    this.#haggling.option = option;
    this.#optionCount += 1;
    if (this.#optionCount > OPTIONS_PER_HANDSHAKE_MAX) {
      this.#close(`more than ${OPTIONS_PER_HANDSHAKE_MAX} options`);
      return;
    }
    const outcome = this.#refusal(option) ?? this.#handle(option, data);
    if (outcome !== "refused") this.#conclude(outcome);
  }

  /** The rules that go before any option's own; null if they let it pass. */
  #refusal(option: number): OptionOutcome | "refused" {
    const { clientFlags, tls, secured, table } = this.#haggling;
    if ((clientFlags & HANDSHAKE.FIXED_NEWSTYLE) === 0 && option !== OPTION.EXPORT_NAME) {
      return {
        kind: "close",
        reason: `option ${optionName(option)} of a client that knows EXPORT_NAME alone`,
      };
    }
    if (tls === "required" && !secured && !BEFORE_TLS.includes(option)) {
      return this.#refuse(REPLY.ERR_TLS_REQD, "this server requires TLS");
    }
    if (table.stopping && option !== OPTION.ABORT) {
      return this.#refuse(REPLY.ERR_SHUTDOWN, "the server is shutting down");
    }
    const full = LETS_IN.includes(option) ? table.full ?? null : null;
    if (full !== null) return this.#refuse(REPLY.ERR_POLICY, full);
    return null;
  }

  /** Fails the current option; EXPORT_NAME cannot be failed, so it ends the connection. */
  #refuse(error: number, reason: string): OptionOutcome | "refused" {
    const { option } = this.#haggling;
    const name = optionName(option);
    if (option === OPTION.EXPORT_NAME) return { kind: "close", reason: `${name}: ${reason}` };
    this.#haggling.fail(error, `Cannot do ${name}: ${reason}`);
    return "refused";
  }

  #handle(option: number, data: Uint8Array | null): OptionOutcome | "refused" {
    const handler = OPTION_HANDLERS.get(option);
    if (handler === undefined) return this.#refuse(REPLY.ERR_UNSUP, "the option is unknown here");
    if (data !== null) return handler.handle(data, this.#haggling);
    if (option === OPTION.ABORT) return handler.handle(NOTHING, this.#haggling);
    return this.#refuse(
      REPLY.ERR_TOO_BIG,
      `more than ${OPTION_DATA_BYTES_MAX} bytes of data`,
    );
  }

  #conclude(outcome: OptionOutcome): void {
    if (outcome === null) return;
    if (outcome.kind === "close") {
      this.#close(outcome.reason);
      return;
    }
    const unread = this.#input.slice(this.#from, this.#to);
    this.#forgetInput();
    if (outcome.kind === "enter") {
      this.result = { kind: "transmission", state: outcome.state, unread };
      return;
    }
    if (unread.length > 0) {
      this.#haggling.output.clear();
      this.#close("bytes came between STARTTLS and TLS");
      return;
    }
    this.result = { kind: "starttls", clientFlags: this.#haggling.clientFlags };
  }

  #close(reason: string): void {
    this.#forgetInput();
    this.result = { kind: "close", reason };
  }

  #forgetInput(): void {
    this.#input = NOTHING;
    this.#from = this.#to = 0;
    this.#skipBytes = 0;
    this.#blocked = false;
  }
}
