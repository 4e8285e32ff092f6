/**
 * The client's handshake against scripted servers: what it asks in which order, what it makes of the
 * answers, and what it does not put up with. Each script is given whole and byte by byte.
 *
 * @module
 */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/block/errors.ts";
import {
  type HandshakeWish,
  type Negotiated,
  negotiateExport,
  negotiateInfo,
  negotiateList,
  type ServerList,
} from "../../lib/nbd/client/handshake.ts";
import { HANDSHAKE_BYTES_MAX, OPTION_REPLY_BYTES_MAX } from "../../lib/nbd/client/limits.ts";
import { StepRunner, type Steps } from "../../lib/nbd/client/steps.ts";
import { ProtocolError } from "../../lib/stream/frame.ts";
import {
  ABORT,
  ack,
  bytes,
  EXPORT_NAME,
  EXTENDED,
  type Field,
  GO,
  greeting,
  inChunks,
  INFO,
  INFO_REPLY,
  infoExport,
  LIST,
  LIST_META,
  META,
  optionReply,
  POLICY,
  sentOptions,
  SERVER,
  SET_META,
  SHUTDOWN,
  STARTTLS,
  STRUCTURED,
  TLS_REQD,
  UNKNOWN,
  UNSUP,
} from "./client_bytes.ts";

/** What came of a conversation. */
interface Outcome<T> {
  readonly value: T | null;
  readonly error: unknown;
  readonly sent: Uint8Array;
  readonly rest: Uint8Array;
}

function collect(runner: StepRunner<unknown>, sent: Uint8Array[]): void {
  for (let out = runner.takeOutput(); out !== null; out = runner.takeOutput()) sent.push(out);
}

/** Plays a script; the parts are what comes before and after encryption. */
function play<T>(steps: Steps<T>, parts: readonly Uint8Array[], chunkBytes: number): Outcome<T> {
  const sent: Uint8Array[] = [];
  const runner = new StepRunner(steps);
  let error: unknown = null;
  try {
    parts.forEach((part, index) => {
      if (index > 0) {
        assert.ok(runner.encrypting, "the client did not begin to encrypt");
        runner.encrypted();
      }
      inChunks(part, chunkBytes, (chunk) => runner.receive(chunk));
    });
  } catch (thrown) {
    error = thrown;
  }
  collect(runner, sent);
  return {
    value: runner.result?.value ?? null,
    error,
    sent: bytes(...sent),
    rest: runner.takeRemainder(),
  };
}

function playBoth<T>(make: () => Steps<T>, ...parts: readonly Uint8Array[]): Outcome<T> {
  const whole = play(make(), parts, 1 << 20);
  const single = play(make(), parts, 1);
  assert.deepEqual(single.sent, whole.sent);
  assert.deepEqual(single.value, whole.value);
  assert.equal(String(single.error), String(whole.error));
  return whole;
}

function open(wish: Partial<HandshakeWish>, ...parts: readonly Uint8Array[]): Outcome<Negotiated> {
  return playBoth(() => negotiateExport({ exportName: "disk", tls: false, ...wish }), ...parts);
}

function asked(outcome: Outcome<unknown>): number[] {
  return sentOptions(outcome.sent).map(({ option }) => option);
}

/** HAS_FLAGS, SEND_FLUSH, SEND_FUA. */
const FLAGS = 0b1101;
const PLAIN = [
  optionReply(EXTENDED, UNSUP),
  optionReply(STRUCTURED, UNSUP),
] as const;
const RICH = [
  optionReply(EXTENDED, UNSUP),
  ack(STRUCTURED),
  optionReply(SET_META, META, [32, 7], "base:allocation"),
  ack(SET_META),
] as const;

function go(size: number | bigint, ...info: readonly Uint8Array[]): Uint8Array {
  return bytes(...info, infoExport(GO, size, FLAGS), ack(GO));
}

function valueOf<T>(outcome: Outcome<T>): T {
  if (outcome.error !== null) throw outcome.error;
  assert.ok(outcome.value !== null, "the handshake did not end");
  return outcome.value;
}

Deno.test("negotiateExport() opens an export with extended headers", () => {
  const outcome = open(
    {},
    bytes(
      greeting(3),
      ack(EXTENDED),
      optionReply(SET_META, META, [32, 0], "base:allocation"),
      ack(SET_META),
      go(
        12_345,
        optionReply(GO, INFO_REPLY, [16, 3], [32, 1], [32, 4096], [32, 0xffffffff]),
        optionReply(GO, INFO_REPLY, [16, 2], "a disk\x1b[2J of mine"),
        optionReply(GO, INFO_REPLY, [16, 1], "Disk"),
        optionReply(GO, INFO_REPLY, [16, 99], "what nobody knows"),
      ),
    ),
  );
  assert.deepEqual(valueOf(outcome), {
    encrypted: false,
    structured: true,
    extended: true,
    exportName: "disk",
    size: 12_345,
    statusContext: 0,
    facts: {
      size: 12_345n,
      flags: FLAGS,
      blockSizes: { minimum: 1, preferred: 4096, maximum: 0xffffffff },
      description: "a disk [2J of mine",
      canonicalName: "Disk",
    },
  });
  const [flags] = outcome.sent.slice(3);
  assert.equal(flags, 3);
  const options = sentOptions(outcome.sent);
  assert.deepEqual(options.map(({ option }) => option), [EXTENDED, SET_META, GO]);
  assert.deepEqual(
    options[1]?.data,
    bytes([32, 4], "disk", [32, 1], [32, 15], "base:allocation"),
  );
  assert.deepEqual(options[2]?.data, bytes([32, 4], "disk", [16, 3], [16, 3], [16, 2], [16, 1]));
});

Deno.test("negotiateExport() takes structured replies where extended headers are unknown", () => {
  const outcome = open({}, bytes(greeting(3), ...RICH, go(1)));
  const { structured, extended, statusContext } = valueOf(outcome);
  assert.deepEqual({ structured, extended, statusContext }, {
    structured: true,
    extended: false,
    statusContext: 7,
  });
  assert.deepEqual(asked(outcome), [EXTENDED, STRUCTURED, SET_META, GO]);
});

Deno.test("negotiateExport() goes on without block status when SET_META_CONTEXT fails", () => {
  const outcome = open(
    {},
    bytes(
      greeting(3),
      RICH[0],
      RICH[1],
      optionReply(SET_META, META, [32, 7], "base:allocation"),
      optionReply(SET_META, UNKNOWN),
      go(1),
    ),
  );
  assert.equal(valueOf(outcome).statusContext, null);
});

for (const [name, flags, padding] of [["padding", 1, 124], ["no padding", 3, 0]] as const) {
  Deno.test(`negotiateExport() falls back to EXPORT_NAME, with ${name}`, () => {
    const reply = bytes([64, 4096], [16, FLAGS], new Uint8Array(padding));
    const outcome = open(
      {},
      bytes(greeting(flags), ...PLAIN, optionReply(GO, UNSUP), reply, "rest"),
    );
    assert.equal(valueOf(outcome).size, 4096);
    assert.equal(valueOf(outcome).facts.blockSizes, null);
    assert.deepEqual(asked(outcome), [EXTENDED, STRUCTURED, GO, EXPORT_NAME]);
    assert.deepEqual(outcome.rest, bytes("rest"));
  });
}

Deno.test("negotiateExport() asks a server without options for the name alone", () => {
  const outcome = open(
    {},
    bytes(greeting(0), [64, 4096], [16, FLAGS], new Uint8Array(124)),
  );
  assert.equal(valueOf(outcome).size, 4096);
  assert.deepEqual(asked(outcome), [EXPORT_NAME]);
  assert.deepEqual(outcome.sent.slice(0, 4), new Uint8Array(4));
});

Deno.test("negotiateExport() begins TLS before anything else", () => {
  const outcome = open(
    { tls: true },
    bytes(greeting(3), ack(STARTTLS)),
    bytes(...PLAIN, go(512)),
  );
  assert.equal(valueOf(outcome).encrypted, true);
  assert.deepEqual(asked(outcome), [STARTTLS, EXTENDED, STRUCTURED, GO]);
});

Deno.test("StepRunner.ifEnded says what a server means that hangs up as TLS begins", () => {
  const runner = new StepRunner(negotiateExport({ exportName: "disk", tls: true }));
  runner.receive(bytes(greeting(3), ack(STARTTLS)));
  assert.doesNotMatch(runner.ifEnded, /certificate/);
  runner.encrypted();
  assert.match(runner.ifEnded, /may refuse this client's certificate/);
  runner.receive(PLAIN[0]);
  assert.equal(runner.ifEnded, "the server closed the connection during the handshake");
});

Deno.test("negotiateExport() does not take bytes in the clear for encrypted ones", () => {
  const outcome = open(
    { tls: true },
    bytes(greeting(3), ack(STARTTLS), ...PLAIN, go(512)),
  );
  assert.ok(outcome.error instanceof ProtocolError);
  assert.match(outcome.error.message, /in the clear/);
});

/** What a server says, the errno, a part of the message, and the options that were sent. */
const REFUSALS:
  readonly (readonly [string, Partial<HandshakeWish>, Uint8Array, string, RegExp, number[]])[] = [
    [
      "an unknown export",
      {},
      bytes(greeting(3), ...PLAIN, optionReply(GO, UNKNOWN, "no disk today")),
      "ENOENT",
      /"disk".*no such export: no disk today/,
      [EXTENDED, STRUCTURED, GO, ABORT],
    ],
    [
      "a server that wants TLS for the export",
      {},
      bytes(greeting(3), ...PLAIN, optionReply(GO, TLS_REQD)),
      "EACCES",
      /nbds/,
      [EXTENDED, STRUCTURED, GO, ABORT],
    ],
    [
      "a server that wants TLS for everything",
      {},
      bytes(greeting(3), optionReply(EXTENDED, TLS_REQD)),
      "EACCES",
      /nbds/,
      [EXTENDED, ABORT],
    ],
    [
      "a server that refuses TLS",
      { tls: true },
      bytes(greeting(3), optionReply(STARTTLS, POLICY, "not here")),
      "EPERM",
      /not here/,
      [STARTTLS, ABORT],
    ],
    [
      "a server that does not know TLS",
      { tls: true },
      bytes(greeting(3), optionReply(STARTTLS, UNSUP)),
      "EOPNOTSUPP",
      /TLS/,
      [STARTTLS, ABORT],
    ],
    ["a server without options for TLS", { tls: true }, greeting(2), "EOPNOTSUPP", /TLS/, []],
    [
      "a server that shuts down",
      {},
      bytes(greeting(3), optionReply(EXTENDED, SHUTDOWN)),
      "ESHUTDOWN",
      /shutting down/,
      [EXTENDED, ABORT],
    ],
    [
      "a device of 2^53 bytes",
      {},
      bytes(greeting(3), ...PLAIN, go(2n ** 53n)),
      "EOVERFLOW",
      /9007199254740992/,
      [EXTENDED, STRUCTURED, GO],
    ],
    [
      "an oldstyle server",
      {},
      bytes("NBDMAGIC", [64, 0x00420281861253n], new Uint8Array(136)),
      "EOPNOTSUPP",
      /oldstyle/,
      [],
    ],
  ];

for (const [name, wish, script, errno, message, options] of REFUSALS) {
  Deno.test(`negotiateExport() takes leave of ${name}`, () => {
    const outcome = open(wish, script);
    assert.ok(outcome.error instanceof BlockError, String(outcome.error));
    assert.equal(outcome.error.errno, errno);
    assert.match(outcome.error.message, message);
    assert.deepEqual(asked(outcome), options);
  });
}

function info(...fields: readonly Field[]): Uint8Array {
  return bytes(greeting(3), ...PLAIN, optionReply(GO, INFO_REPLY, ...fields), go(1));
}

const VIOLATIONS: readonly (readonly [string, Uint8Array, RegExp])[] = [
  ["another protocol", bytes("SSH-2.0-OpenSSH_9.9 and so on"), /no NBD server/],
  ["a second magic that is wrong", bytes("NBDMAGIC", "NBDMAGIC", [16, 3]), /second magic/],
  ["a reply magic that is wrong", bytes(greeting(3), new Uint8Array(20)), /magic/],
  ["a reply to another option", bytes(greeting(3), ack(GO)), /answers GO/],
  [
    "a reply of another kind",
    bytes(greeting(3), optionReply(EXTENDED, SERVER, [32, 0])),
    /answers SERVER/,
  ],
  [
    "a reply that is too long",
    bytes(greeting(3), [64, 0x3e889045565a9n], [32, EXTENDED], [32, 1], [
      32,
      OPTION_REPLY_BYTES_MAX + 1,
    ]),
    /bytes, at most/,
  ],
  ["no INFO_EXPORT", bytes(greeting(3), ...PLAIN, ack(GO)), /did not tell its size/],
  ["an INFO without type", info(new Uint8Array(1)), /no type/],
  ["an INFO_EXPORT of 11 bytes", info([16, 0], new Uint8Array(9)), /11 bytes/],
  ["flags without HAS_FLAGS", info([16, 0], [64, 1], [16, 4]), /flags/],
  ["an INFO_BLOCK_SIZE of 15 bytes", info([16, 3], new Uint8Array(13)), /15 bytes/],
  ["a minimum block of 0", info([16, 3], [32, 0], [32, 512], [32, 512]), /block sizes/],
  ["a minimum block of 3", info([16, 3], [32, 3], [32, 512], [32, 512]), /block sizes/],
  [
    "a minimum block of 128 KiB",
    info([16, 3], [32, 1 << 17], [32, 1 << 17], [32, 1 << 20]),
    /sizes/,
  ],
  ["a preferred block of 256", info([16, 3], [32, 1], [32, 256], [32, 512]), /block sizes/],
  ["a maximum below the preferred block", info([16, 3], [32, 1], [32, 4096], [32, 512]), /sizes/],
  ["a name that is not UTF-8", info([16, 1], Uint8Array.of(0xff)), /no string of NBD/],
  [
    "a context that was not asked for",
    bytes(greeting(3), RICH[0], RICH[1], optionReply(SET_META, META, [32, 1], "x-what:ever")),
    /not asked for/,
  ],
  [
    "a context twice",
    bytes(greeting(3), RICH[0], RICH[1], RICH[2], RICH[2]),
    /not asked for/,
  ],
  [
    "a context without id",
    bytes(greeting(3), RICH[0], RICH[1], optionReply(SET_META, META, [16, 1])),
    /metadata context/,
  ],
  [
    "no GO in spite of extended headers",
    bytes(greeting(3), ack(EXTENDED), ack(SET_META), optionReply(GO, UNSUP)),
    /refuses GO/,
  ],
];

for (const [name, script, message] of VIOLATIONS) {
  Deno.test(`negotiateExport() does not put up with ${name}`, () => {
    const { error } = open({}, script);
    assert.ok(error instanceof ProtocolError, String(error));
    assert.match(error.message, message);
  });
}

Deno.test("negotiateExport() bounds what a server may send", () => {
  const runner = new StepRunner(negotiateExport({ exportName: "disk", tls: false }));
  runner.receive(bytes(greeting(3), ...PLAIN));
  const item = optionReply(GO, INFO_REPLY, [16, 99], new Uint8Array(8000));
  let received = 0;
  assert.throws(() => {
    while (received < 2 * HANDSHAKE_BYTES_MAX) {
      runner.receive(item);
      received += item.length;
    }
  }, ProtocolError);
  assert.ok(received <= HANDSHAKE_BYTES_MAX);
});

function list(...parts: readonly Uint8Array[]): Outcome<ServerList> {
  return playBoth(() => negotiateList({ exportName: "", tls: false }), bytes(...parts));
}

Deno.test("negotiateList() describes each export", () => {
  const outcome = list(
    greeting(3),
    RICH[0],
    RICH[1],
    optionReply(LIST, SERVER, [32, 1], "a"),
    optionReply(LIST, SERVER, [32, 1], "b", "the second"),
    ack(LIST),
    infoExport(INFO, 2n ** 60n, FLAGS),
    ack(INFO),
    optionReply(LIST_META, META, [32, 0], "base:allocation"),
    optionReply(LIST_META, META, [32, 0], "qemu:dirty-bitmap:x"),
    ack(LIST_META),
    optionReply(INFO, POLICY, "secret"),
  );
  assert.deepEqual(valueOf(outcome), {
    encrypted: false,
    structured: true,
    extended: false,
    exports: [
      {
        name: "a",
        description: null,
        facts: {
          size: 2n ** 60n,
          flags: FLAGS,
          blockSizes: null,
          description: null,
          canonicalName: null,
        },
        contexts: ["base:allocation", "qemu:dirty-bitmap:x"],
        problem: null,
      },
      {
        name: "b",
        description: "the second",
        facts: null,
        contexts: [],
        problem: "its policy forbids it: secret",
      },
    ],
  });
  assert.deepEqual(
    asked(outcome),
    [EXTENDED, STRUCTURED, LIST, INFO, LIST_META, INFO, ABORT],
  );
});

Deno.test("negotiateList() fails where listing is forbidden", () => {
  const { error } = list(greeting(3), ...PLAIN, optionReply(LIST, POLICY));
  assert.ok(error instanceof BlockError);
  assert.equal(error.errno, "EPERM");
});

Deno.test("negotiateList() does not put up with an entry that overruns its reply", () => {
  const { error } = list(greeting(3), ...PLAIN, optionReply(LIST, SERVER, [32, 2], "a"));
  assert.ok(error instanceof ProtocolError);
});

Deno.test("negotiateInfo() asks about one export and leaves", () => {
  const outcome = playBoth(
    () => negotiateInfo({ exportName: "a", tls: false }),
    bytes(greeting(3), ...PLAIN, infoExport(INFO, 512, FLAGS), ack(INFO)),
  );
  assert.equal(valueOf(outcome).exports[0]?.facts?.size, 512n);
  assert.deepEqual(asked(outcome), [EXTENDED, STRUCTURED, INFO, ABORT]);
});

Deno.test("negotiateExport() refuses a name that the protocol cannot carry", () => {
  const make = (exportName: string) => () =>
    new StepRunner(negotiateExport({ exportName, tls: false }));
  assert.throws(make("a\0b"), RangeError);
  assert.throws(make("x".repeat(4097)), RangeError);
});
