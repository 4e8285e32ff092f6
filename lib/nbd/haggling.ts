/**
 * What the options of a handshake share: the state that they negotiate, the export table, and the
 * replies. Implements the reply format of the section "Fixed newstyle negotiation".
 *
 * @module
 */
import { ByteWriter } from "./byte_io.ts";
import { HANDSHAKE, OPTION_REPLY_MAGIC, REPLY } from "./constants.ts";
import type { ExportInfo, ExportTable, HandshakeState, MetaContext } from "./export_info.ts";
import { transmissionFlags } from "./export_info.ts";
import { messageBytes } from "./text.ts";

/** TLS of an endpoint: never (NOTLS), as the client likes (SELECTIVETLS), always (FORCEDTLS). */
export type TlsMode = "off" | "optional" | "required";

/** How a handshake can end. */
export type HandshakeResult =
  | {
    /** The transmission phase begins. */
    readonly kind: "transmission";
    readonly state: HandshakeState;
    /** Bytes that came after the handshake. */
    readonly unread: Uint8Array;
  }
  | {
    /**
     * Once the output is sent TLS begins; a new handshake with `secured` and these client flags then
     * goes on over it. Nothing of what was negotiated before counts.
     */
    readonly kind: "starttls";
    readonly clientFlags: number;
  }
  | {
    /** The connection ends once the output is sent. */
    readonly kind: "close";
    /** Why, for the log, without a full stop. */
    readonly reason: string;
  };

/** What an option makes of the handshake: null if haggling goes on. */
export type OptionOutcome =
  | { readonly kind: "enter"; readonly state: HandshakeState }
  | { readonly kind: "starttls" }
  | { readonly kind: "close"; readonly reason: string }
  | null;

/** One option of the handshake; each lives in a file of its own under options/. */
export interface OptionHandler {
  /** The number of the option. */
  readonly option: number;
  /** Answers the option through `haggling` and says how to go on. */
  handle(data: Uint8Array, haggling: Haggling): OptionOutcome;
}

/** What was found under a name: an export, one that needs TLS first, or none. */
export type Found =
  | { readonly kind: "export"; readonly info: ExportInfo }
  | { readonly kind: "needs-tls" }
  | { readonly kind: "unknown" };

/** Metadata contexts as selected: they hold for this export alone. */
export interface Selection {
  /** The export's name in the table. */
  readonly exportName: string;
  /** In the order of the export's list. */
  readonly contexts: readonly MetaContext[];
}

/** Settings of a handshake. */
export interface HandshakeOptions {
  /** Where exports are looked up, anew at each option. */
  readonly exports: ExportTable;
  /** How TLS stands at this endpoint. */
  readonly tls: TlsMode;
  /** This handshake goes on after STARTTLS: no greeting, no client flags. */
  readonly secured: boolean;
  /** After STARTTLS: what the client had sent as its flags; both known ones if left out. */
  readonly clientFlags?: number;
}

/** The state of one haggling. */
export class Haggling {
  /** Structured replies were negotiated. */
  structured = false;
  /** Extended headers were negotiated. */
  extended = false;
  /** The last SET_META_CONTEXT that succeeded. */
  selection: Selection | null = null;
  /** What the client sent as its flags. */
  clientFlags: number = HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES;
  /** The option that is being answered. */
  option = 0;

  /** Where exports are looked up. */
  readonly table: ExportTable;
  /** How TLS stands at this endpoint. */
  readonly tls: TlsMode;
  /** The connection is under TLS. */
  readonly secured: boolean;
  /** What goes to the client. */
  readonly output: ByteWriter = new ByteWriter();

  /** Starts with nothing negotiated. */
  constructor(options: HandshakeOptions) {
    this.table = options.exports;
    this.tls = options.tls;
    this.secured = options.secured;
    if (options.clientFlags !== undefined) this.clientFlags = options.clientFlags;
  }

  /** True if the client may do without the 124 zeroes of EXPORT_NAME. */
  get noZeroes(): boolean {
    return (this.clientFlags & HANDSHAKE.NO_ZEROES) !== 0;
  }

  /** True if exports that need TLS are kept from this client: what it does not know it may not find out. */
  get hidesExports(): boolean {
    if (this.secured) return false;
    return this.table.exports.values().some((info) => info.tlsRequired);
  }

  /** True if this client may see the export. */
  mayShow(info: ExportInfo): boolean {
    return this.secured || !info.tlsRequired;
  }

  /** Looks up an export; the empty name stands for the default one unless an export has that name. */
  find(name: string): Found {
    const { exports, defaultExport } = this.table;
    let info = exports.get(name);
    if (info === undefined && name === "" && defaultExport !== null) {
      info = exports.get(defaultExport);
    }
    if (info !== undefined && this.mayShow(info)) return { kind: "export", info };
    // Without TLS to offer there is no point in asking for it.
    return this.tls === "optional" && this.hidesExports
      ? { kind: "needs-tls" }
      : { kind: "unknown" };
  }

  /** Selected contexts that hold for this export. */
  contextsOf(info: ExportInfo): readonly MetaContext[] {
    const { selection } = this;
    if (selection === null || selection.exportName !== info.name) return [];
    return selection.contexts.filter(({ name }) => info.contexts.includes(name));
  }

  /** The transmission flags of an export as things stand. */
  flagsOf(info: ExportInfo): number {
    const { structured, extended } = this;
    return transmissionFlags(info, { structured, extended, contexts: this.contextsOf(info) });
  }

  /** What is handed over if the client enters this export. */
  stateOf(info: ExportInfo, blockSizeAgreed: boolean): HandshakeState {
    return {
      exportName: info.name,
      structured: this.structured || this.extended,
      extended: this.extended,
      contexts: this.contextsOf(info),
      flags: this.flagsOf(info),
      blockSizeAgreed,
      secured: this.secured,
    };
  }

  /** Begins a reply of `length` data bytes, which the caller writes next; returns the writer. */
  reply(type: number, length: number): ByteWriter {
    return this.output.u64(OPTION_REPLY_MAGIC).u32(this.option).u32(type).u32(length);
  }

  /** The final reply of success. */
  ack(): null {
    this.reply(REPLY.ACK, 0);
    return null;
  }

  /** The final reply of failure, with a message for a human. */
  fail(error: number, message: string): null {
    const bytes = messageBytes(message);
    this.reply(error, bytes.length).raw(bytes);
    return null;
  }
}
