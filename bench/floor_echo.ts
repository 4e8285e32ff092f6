/**
 * A server that does the least that a server can do: it reads requests of 28 bytes and answers each with
 * 16 bytes and a block of 4 KiB. `floor_echo.ts SOCKET` answers with what is in memory, `floor_echo.ts
 * SOCKET FILE` with blocks of a file, at places that a request would name. One connection, then it ends.
 * What a server of this project takes longer is what it can be made faster.
 *
 * @module
 */
import { systemFiles } from "../lib/sys/file.ts";
import { POLL_IN, POLL_OUT, PollSet } from "../lib/sys/poll.ts";
import { accept, receive, send, WOULD_BLOCK } from "../lib/sys/socket.ts";
import { listenUnix } from "../lib/sys/unix_listener.ts";
import { ANSWER_BYTES, BLOCK_BYTES, HEAD_BYTES, REQUEST_BYTES } from "./floor_shape.ts";

const DEPTH_MAX = 256;

function waitFor(fd: number, events: number): void {
  const set = new PollSet();
  set.add(fd, events);
  set.wait(-1);
}

function serve(fd: number, readBlock: (into: Uint8Array) => void): void {
  const into = new Uint8Array(DEPTH_MAX * REQUEST_BYTES);
  const out = new Uint8Array(DEPTH_MAX * ANSWER_BYTES);
  const blocks = Array.from({ length: DEPTH_MAX }, (_, index) => {
    const at = index * ANSWER_BYTES + HEAD_BYTES;
    return out.subarray(at, at + BLOCK_BYTES);
  });
  let rest = 0;
  for (;;) {
    const count = receive(fd, into);
    if (count === 0) return;
    if (count === WOULD_BLOCK) {
      waitFor(fd, POLL_IN);
      continue;
    }
    const requests = Math.floor((rest + count) / REQUEST_BYTES);
    rest = (rest + count) % REQUEST_BYTES;
    for (let at = 0; at < requests; at += 1) readBlock(blocks[at] ?? out);
    const length = requests * ANSWER_BYTES;
    for (let sent = 0; sent < length;) {
      const taken = send(fd, out.subarray(sent, length));
      if (taken === WOULD_BLOCK) waitFor(fd, POLL_OUT);
      else sent += taken;
    }
  }
}

const [socket = "", path] = Deno.args;
const listener = listenUnix(socket);
let connection = accept(listener.fd);
while (connection === null) {
  waitFor(listener.fd, POLL_IN);
  connection = accept(listener.fd);
}
if (path === undefined) {
  serve(connection.fd, () => {});
} else {
  const file = systemFiles.open(path, { readOnly: true, direct: false, lock: false });
  const places = Math.floor(file.size() / BLOCK_BYTES);
  let place = 0;
  serve(connection.fd, (into) => {
    place = (place + 7_919) % places;
    file.read(into, place * BLOCK_BYTES);
  });
}
