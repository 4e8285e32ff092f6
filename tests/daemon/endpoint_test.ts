/** Endpoints: what each form becomes, and what is said about wrong ones. @module */
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { UsageError } from "../../lib/block/usage_error.ts";
import {
  type Endpoint,
  formatEndpoint,
  nbdUriOf,
  parseEndpoint,
} from "../../lib/daemon/endpoint.ts";

Deno.test("parseEndpoint() reads every form, formatEndpoint() writes it", () => {
  const rows: readonly (readonly [string, Endpoint, string])[] = [
    ["unix:/run/a.sock", { kind: "unix", path: "/run/a.sock", mode: 0o600 }, "unix:/run/a.sock"],
    ["unix:a?mode=0660", { kind: "unix", path: "a", mode: 0o660 }, "unix:a?mode=0660"],
    ["unix:a?mode=666", { kind: "unix", path: "a", mode: 0o666 }, "unix:a?mode=0666"],
    ["unix:a%3Fb", { kind: "unix", path: "a?b", mode: 0o600 }, "unix:a%3Fb"],
    ["tcp:10809", { kind: "tcp", host: "127.0.0.1", port: 10809 }, "tcp:127.0.0.1:10809"],
    ["tcp::10810", { kind: "tcp", host: "127.0.0.1", port: 10810 }, "tcp:127.0.0.1:10810"],
    ["tcp:0", { kind: "tcp", host: "127.0.0.1", port: 0 }, "tcp:127.0.0.1:0"],
    ["tcp:disks.lan", { kind: "tcp", host: "disks.lan", port: 10809 }, "tcp:disks.lan:10809"],
    ["tcp:0.0.0.0:1", { kind: "tcp", host: "0.0.0.0", port: 1 }, "tcp:0.0.0.0:1"],
    ["tcp:[::1]:65535", { kind: "tcp", host: "::1", port: 65535 }, "tcp:[::1]:65535"],
    ["tcp:[fe80::1]", { kind: "tcp", host: "fe80::1", port: 10809 }, "tcp:[fe80::1]:10809"],
    ["systemd:", { kind: "systemd", name: null }, "systemd:"],
    ["systemd:nbd", { kind: "systemd", name: "nbd" }, "systemd:nbd"],
  ];
  for (const [text, endpoint, written] of rows) {
    assert.deepEqual(parseEndpoint(text), endpoint, text);
    assert.equal(formatEndpoint(endpoint), written);
    assert.deepEqual(parseEndpoint(written), endpoint);
  }
});

Deno.test("parseEndpoint() points at what is wrong and says what to write", () => {
  const rows: readonly (readonly [string, string, string])[] = [
    ["", "«»", "it is empty; write unix:PATH, tcp:HOST:PORT or systemd:"],
    ["/run/a", "«/run/a»", "write unix:/run/a for a socket of that path"],
    ["10809", "«10809»", "write tcp:10809"],
    [":10809", "«:10809»", "write tcp::10809"],
    ["[::1]:1", "«[::1]:1»", "write tcp:[::1]:1"],
    ["udp:1", "«udp»:1", 'there is no "udp:"; write unix:PATH, tcp:HOST:PORT or systemd:'],
    [
      "nbd://localhost",
      "«nbd»://localhost",
      "an endpoint is unix:PATH, tcp:HOST:PORT or systemd:, not a URI",
    ],
    ["unix:", "unix:«»", "the path of the socket is missing"],
    ["unix:a%00", "unix:«a%00»", "a path holds no NUL character"],
    ["unix:a?mode=99", "unix:a?mode=«99»", '"99" is no mode in octal, such as 0660'],
    ["unix:a?mode=4755", "unix:a?mode=«4755»", '"4755" is no mode in octal, such as 0660'],
    ["unix:a?mod=1", "unix:a?«mod»=1", 'there is no option "mod"; did you mean "mode"?'],
    ["tcp:", "tcp:«»", "the port is missing; write tcp:10809"],
    ["tcp:1?mode=1", "tcp:1?«mode»=1", 'there is no option "mode"; there are none'],
    ["tcp:a:65536", "tcp:a:«65536»", "its port must be a whole number from 0 to 65535"],
    ["tcp:a:x", "tcp:a:«x»", "its port must be a whole number from 0 to 65535"],
    ["tcp:::1", "tcp:«::1»", "it is no host and port; write tcp:[::1]:10809"],
    ["tcp:a:b:c", "tcp:«a:b:c»", "it is no host and port; write tcp:HOST:PORT"],
    ["tcp:[::g]:1", "tcp:«[::g]:1»", '"::g" is no IPv6 address'],
    ["tcp:300.1.1.1:1", "tcp:«300.1.1.1:1»", '"300.1.1.1" is no host name or address'],
    ["tcp:a/b:1", "tcp:«a/b:1»", '"a/b" is no host name or address'],
    [
      "tcp:*:1",
      "tcp:«*:1»",
      "for all addresses write tcp:0.0.0.0:PORT or tcp:[::]:PORT",
    ],
  ];
  for (const [text, marked, reason] of rows) {
    assert.throws(() => parseEndpoint(text), (error) => {
      assert.ok(error instanceof UsageError && error.place !== null, `${text}: ${String(error)}`);
      const { text: source, start, end } = error.place;
      assert.equal(error.message, `Cannot listen on "${text}": ${reason}`);
      const shown = `${source.slice(0, start)}«${source.slice(start, end)}»${source.slice(end)}`;
      assert.equal(shown, marked);
      return true;
    });
  }
});

Deno.test("parseEndpoint() refuses a path that no socket can have", () => {
  assert.equal(parseEndpoint(`unix:${"x".repeat(107)}`).kind, "unix");
  assert.throws(() => parseEndpoint(`unix:${"x".repeat(108)}`), /has at most 107 bytes$/);
  assert.throws(() => parseEndpoint(`unix:${"ä".repeat(54)}`), /has at most 107 bytes$/);
});

Deno.test("nbdUriOf() gives a URI that reaches the listener", () => {
  const rows: readonly (readonly [string, string])[] = [
    [nbdUriOf({ kind: "unix", path: "/a b" }, "", false), "nbd+unix:///?socket=/a%20b"],
    [nbdUriOf({ kind: "unix", path: "/a" }, "disk", true), "nbds+unix:///disk?socket=/a"],
    [nbdUriOf({ kind: "unix", path: "s" }, "", false), `nbd+unix:///?socket=${resolve("s")}`],
    [nbdUriOf({ kind: "unix", path: "\0s" }, "", false), "nbd+unix:///?socket=%00s"],
    [nbdUriOf({ kind: "tcp", host: "0.0.0.0", port: 1 }, "x", false), "nbd://127.0.0.1:1/x"],
    [nbdUriOf({ kind: "tcp", host: "::", port: 10809 }, "", false), "nbd://[::1]"],
  ];
  for (const [uri, expected] of rows) assert.equal(uri, expected);
});
