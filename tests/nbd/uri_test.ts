/**
 * NBD URIs: the table of the URI document, parameters, places of errors, and that writing undoes reading.
 *
 * @module
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import { UsageError } from "../../lib/block/usage_error.ts";
import { formatNbdUri, NBD_PORT, type NbdUri, parseNbdUri } from "../../lib/nbd/uri.ts";

const PLAIN = { tls: false, tlsVerifyPeer: true } as const;
const SECURE = { tls: true, tlsVerifyPeer: true } as const;

function tcp(host: string, port = NBD_PORT): NbdUri["address"] {
  return { kind: "tcp", host, port };
}

function unix(path: string): NbdUri["address"] {
  return { kind: "unix", path };
}

const READ: readonly (readonly [string, NbdUri])[] = [
  ["nbd://example.com/disk", { ...PLAIN, address: tcp("example.com"), exportName: "disk" }],
  ["nbd+unix:///disk?socket=sock", { ...PLAIN, address: unix("sock"), exportName: "disk" }],
  ["nbd://example.com/", { ...PLAIN, address: tcp("example.com"), exportName: "" }],
  ["nbd://example.com", { ...PLAIN, address: tcp("example.com"), exportName: "" }],
  ["nbd://example.com//disk", { ...PLAIN, address: tcp("example.com"), exportName: "/disk" }],
  [
    "nbd://example.com/hello%20world",
    { ...PLAIN, address: tcp("example.com"), exportName: "hello world" },
  ],
  ["nbd://", { ...PLAIN, address: tcp("localhost"), exportName: "" }],
  ["nbd:///a", { ...PLAIN, address: tcp("localhost"), exportName: "a" }],
  ["nbd://:10000", { ...PLAIN, address: tcp("localhost", 10000), exportName: "" }],
  ["nbd://h:65535/a/b?", { ...PLAIN, address: tcp("h", 65535), exportName: "a/b" }],
  ["NBD://h:/x", { ...PLAIN, address: tcp("h"), exportName: "x" }],
  ["nbd://127.0.0.1:1", { ...PLAIN, address: tcp("127.0.0.1", 1), exportName: "" }],
  ["nbd://[::1]", { ...PLAIN, address: tcp("::1"), exportName: "" }],
  ["nbd://[fe80::1]:9/x", { ...PLAIN, address: tcp("fe80::1", 9), exportName: "x" }],
  ["nbd+unix:///?socket=%00/abs", { ...PLAIN, address: unix("\0/abs"), exportName: "" }],
  ["nbd+unix://?socket=/a+b%26c", { ...PLAIN, address: unix("/a+b&c"), exportName: "" }],
  ["nbd+unix:///%C3%A9?socket=s", { ...PLAIN, address: unix("s"), exportName: "é" }],
  ["nbd+unix:///é?socket=s", { ...PLAIN, address: unix("s"), exportName: "é" }],
  ["nbds://h/x?tls-type=x509", { ...SECURE, address: tcp("h"), exportName: "x" }],
  [
    "nbds://h?tls-hostname=other&tls-verify-peer=0&tls-certificates=/pki%3F",
    {
      tls: true,
      tlsVerifyPeer: false,
      tlsHostname: "other",
      tlsCertificates: "/pki?",
      address: tcp("h"),
      exportName: "",
    },
  ],
  [
    "nbds+unix:///x?tls-verify-peer=1&socket=s",
    { ...SECURE, address: unix("s"), exportName: "x" },
  ],
];

for (const [text, expected] of READ) {
  Deno.test(`parseNbdUri() reads ${text}`, () => {
    assert.deepEqual(parseNbdUri(text), expected);
    assert.deepEqual(parseNbdUri(formatNbdUri(expected)), expected);
  });
}

/** A text, the part of it that is wrong, and what is said of it. */
const REFUSED: readonly (readonly [string, string, RegExp])[] = [
  ["", "", /begin with nbd:\/\//],
  ["http://h/", "http", /begin with nbd:\/\//],
  ["nbd:disk", "nbd:disk", /begin with/],
  ["nbd+vsock://2/", "nbd+vsock", /begin with/],
  ["nbd://h/x#part", "#part", /fragment/],
  ["nbd://me@h/x", "me", /pre-shared keys/],
  ["nbd://h:0/", "0", /1 to 65535/],
  ["nbd://h:70000/", "70000", /1 to 65535/],
  ["nbd://h:1x/", "1x", /1 to 65535/],
  ["nbd://[::1/", "[::1", /IPv6/],
  ["nbd://[::g]/", "[::g]", /IPv6/],
  ["nbd://[::1]1/", "1", /colon/],
  ["nbd://h/%4", "%4", /two hex digits/],
  ["nbd://h/%zz", "%zz", /two hex digits/],
  ["nbd://h/a b", " ", /percent-encoded/],
  ["nbd://h/%FF", "%FF", /UTF-8/],
  ["nbd://h/a%00b", "/a%00b", /NUL/],
  [`nbd://h/${"x".repeat(4097)}`, `/${"x".repeat(4097)}`, /4096/],
  ["nbd://h/?socket=s", "socket=s", /nbd\+unix/],
  ["nbd://h/?tls-hostname=x", "tls-hostname=x", /scheme nbds/],
  ["nbd://h/?x-fast=1", "x-fast", /unknown parameter/],
  ["nbds://h/?tls-psk-file=x", "tls-psk-file", /pre-shared/],
  ["nbds://h/?tls-type=anon", "tls-type=anon", /x509/],
  ["nbds://h/?tls-verify-peer=2", "tls-verify-peer=2", /0 or 1/],
  ["nbds://h/?tls-verify-peer", "tls-verify-peer", /needs a value/],
  ["nbds://h/?tls-hostname=a/b", "tls-hostname=a/b", /host name/],
  ["nbds://h/?tls-certificates=a%00", "tls-certificates=a%00", /NUL/],
  ["nbd+unix:///x", "/x", /socket=PATH is missing/],
  ["nbd+unix://h/x?socket=s", "h", /three slashes/],
  ["nbd+unix:///?socket=", "socket=", /needs a value/],
  ["nbd+unix:///?socket=%00", "socket=%00", /NUL/],
  ["nbd+unix:///?socket=a%00b", "socket=a%00b", /NUL/],
  ["nbd+unix:///?socket=a&socket=b", "socket=b", /twice/],
];

for (const [text, part, reason] of REFUSED) {
  Deno.test(`parseNbdUri() points at the fault of ${JSON.stringify(text.slice(0, 60))}`, () => {
    assert.throws(() => parseNbdUri(text), (error) => {
      assert.ok(error instanceof UsageError && error.place !== null);
      assert.match(error.message, reason);
      const { start, end } = error.place;
      assert.equal(error.place.text.slice(start, end), part);
      return true;
    });
  });
}

/** Objects as a literal makes them. */
const OWN = { noNullPrototype: true } as const;

Deno.test("parseNbdUri() reads what formatNbdUri() has written", () => {
  const word = fc.string({ unit: "grapheme", minLength: 1, maxLength: 30 })
    .map((text) => text.replaceAll("\0", "0"));
  const hosts = fc.constantFrom("localhost", "a.example", "10.0.0.1", "::1", "2001:db8::7");
  const port = fc.integer({ min: 1, max: 65_535 });
  const address = fc.oneof(
    fc.record({ kind: fc.constant("tcp" as const), host: hosts, port }, OWN),
    fc.record({ kind: fc.constant("unix" as const), path: word }, OWN),
  );
  const plain = fc.record({
    address,
    exportName: fc.oneof(fc.constant(""), word),
    tls: fc.constant(false),
    tlsVerifyPeer: fc.constant(true),
  }, OWN);
  const secure = fc.record({
    address,
    exportName: word,
    tls: fc.constant(true),
    tlsVerifyPeer: fc.boolean(),
    tlsHostname: hosts,
    tlsCertificates: word,
  }, OWN);
  fc.assert(
    fc.property(fc.oneof(plain, secure), (uri) => {
      assert.deepEqual(parseNbdUri(formatNbdUri(uri)), uri);
    }),
    { seed: 1, numRuns: 500 },
  );
});

Deno.test("parseNbdUri() throws nothing but UsageError for random text", () => {
  const text = fc.oneof(
    fc.string({ maxLength: 40 }),
    fc.string({ maxLength: 40 }).map((rest) => `nbd://${rest}`),
    fc.string({ maxLength: 40 }).map((rest) => `nbds+unix:///x?${rest}`),
  );
  fc.assert(
    fc.property(text, (sample) => {
      try {
        parseNbdUri(sample);
      } catch (error) {
        assert.ok(error instanceof UsageError, String(error));
      }
    }),
    { seed: 2, numRuns: 2000 },
  );
});
