/**
 * The client's sockets: TCP on addresses of both families, abstract unix sockets, servers that do not
 * listen, that hang up, and that slip bytes in front of TLS.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createServer, type Server, type Socket } from "node:net";
import { BlockError } from "../../lib/block/errors.ts";
import { connectNbd } from "../../lib/nbd/client/connect.ts";
import { addressText } from "../../lib/nbd/client/dial.ts";
import { testClock as clock } from "../../lib/testing/mod.ts";
import { withTempDir } from "../support/tools.ts";
import {
  ack,
  bytes,
  EXTENDED,
  GO,
  greeting,
  infoExport,
  optionReply,
  simple,
  STARTTLS,
  STRUCTURED,
  UNSUP,
} from "./client_bytes.ts";

const OPENING = bytes(
  greeting(3),
  optionReply(EXTENDED, UNSUP),
  optionReply(STRUCTURED, UNSUP),
  infoExport(GO, 4096, 5),
  ack(GO),
);

/** Runs `test` with a server that gives each connection to `serve`, and closes everything afterwards. */
async function withListener(
  listen: (server: Server) => void,
  serve: (socket: Socket) => void,
  test: (port: number) => Promise<void>,
): Promise<void> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on("error", () => {}));
    serve(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("listening", resolve).once("error", reject);
    listen(server);
  });
  try {
    const address = server.address();
    await test(typeof address === "object" ? address?.port ?? 0 : 0);
  } finally {
    for (const socket of sockets) socket.destroy();
    await new Promise<void>((resolve) => server.close(() => resolve()));
  }
}

/** Opens a disk and answers the flush that follows; the connection is then closed by the client. */
function serveFlush(socket: Socket): void {
  socket.write(OPENING);
  let received = new Uint8Array(0);
  let answered = false;
  socket.on("data", (chunk: Uint8Array) => {
    received = new Uint8Array(bytes(received, chunk));
    const at = received.length - 28;
    const view = new DataView(received.buffer);
    if (answered || at < 0 || view.getUint32(at) !== 0x25609513) return;
    answered = true;
    socket.write(simple(Number(view.getBigUint64(at + 8)), 0));
  });
}

async function flush(uri: string): Promise<void> {
  await using connection = await connectNbd(uri, { clock });
  await connection.flush();
}

async function failure(uri: string): Promise<BlockError> {
  try {
    await flush(uri);
  } catch (error) {
    assert.ok(error instanceof BlockError, String(error));
    return error;
  }
  assert.fail("it did not fail");
}

for (
  const [host, bound] of [
    ["127.0.0.1", "127.0.0.1"],
    ["localhost", "127.0.0.1"],
    ["[::1]", "::1"],
  ] as const
) {
  Deno.test({
    name: `dialSocket() reaches ${host} where a server listens on ${bound}`,
    ignore: !Deno.networkInterfaces().some(({ address }) => address === bound),
    fn: () =>
      withListener(
        (server) => server.listen(0, bound),
        serveFlush,
        (port) => flush(`nbd://${host}:${port}/`),
      ),
  });
}

Deno.test("dialSocket() reaches a unix socket with odd characters in its path", async () => {
  await withTempDir((folder) =>
    withListener(
      (server) => server.listen(`${folder}/a ?&%é`),
      serveFlush,
      () => flush(`nbd+unix:///?socket=${encodeURIComponent(`${folder}/a ?&%é`)}`),
    )
  );
});

Deno.test("dialSocket() says what is wrong with an address", async () => {
  await withTempDir(async (folder) => {
    await Deno.writeTextFile(`${folder}/file`, "");
    for (
      const [uri, errnos, message] of [
        [`nbd+unix:///?socket=${folder}/none`, ["ENOENT"], /none: no such file/],
        [`nbd+unix:///?socket=${folder}/file`, ["ECONNREFUSED"], /file: connection refused/],
        ["nbd+unix:///?socket=%00dmu-nobody-listens-here", ["ECONNREFUSED"], /@dmu-nobody/],
        ["nbd://127.0.0.1:1/", ["ECONNREFUSED"], /127\.0\.0\.1:1: connection refused/],
      ] as const
    ) {
      const error = await failure(uri);
      assert.ok(errnos.some((errno) => errno === error.errno), `${uri}: ${error.errno}`);
      assert.match(error.message, message);
    }
    // Which errno a resolver gives differs; that the name is in the message does not.
    assert.match((await failure("nbd://nowhere.invalid/")).message, /nowhere\.invalid/);
  });
});

Deno.test("dialSocket() does not take bytes in the clear behind the consent to TLS", async () => {
  for (const extra of [bytes(optionReply(EXTENDED, UNSUP)), Uint8Array.of(0)]) {
    await withListener(
      (server) => server.listen(0, "127.0.0.1"),
      (socket) => socket.write(bytes(greeting(3), ack(STARTTLS), extra)),
      async (port) => {
        const error = await failure(`nbds://127.0.0.1:${port}/`);
        assert.equal(error.errno, "EPROTO");
        assert.match(error.message, /in the clear/);
      },
    );
  }
});

Deno.test("dialSocket() fails when the server ends instead of beginning TLS", async () => {
  await withListener(
    (server) => server.listen(0, "127.0.0.1"),
    (socket) => {
      socket.write(bytes(greeting(3), ack(STARTTLS)));
      // The first bytes that are neither flags nor an option are the client's greeting of TLS.
      let received = 0;
      socket.on("data", (chunk: Uint8Array) => {
        received += chunk.length;
        if (received > 20) socket.end("this is no TLS");
      });
    },
    async (port) => {
      const error = await failure(`nbds://127.0.0.1:${port}/`);
      assert.equal(error.errno, "EACCES");
      assert.match(error.message, /Cannot begin TLS with 127\.0\.0\.1/);
    },
  );
});

Deno.test("NbdConnection fails with an errno when a socket is reset", async () => {
  await withListener(
    (server) => server.listen(0, "127.0.0.1"),
    (socket) => {
      socket.write(OPENING);
      let received = 0;
      socket.on("data", (chunk: Uint8Array) => {
        received += chunk.length;
        if (received > 120) socket.resetAndDestroy();
      });
    },
    async (port) => {
      await using connection = await connectNbd(`nbd://127.0.0.1:${port}/`, { clock });
      await assert.rejects(connection.write(new Uint8Array(4096), 0), BlockError);
      await assert.rejects(connection.flush(), (error) => {
        return error instanceof BlockError && error.errno === "ENOTCONN";
      });
    },
  );
});

Deno.test("addressText() writes an abstract socket as people do", () => {
  assert.equal(addressText({ kind: "unix", path: "\0name" }), "@name");
  assert.equal(addressText({ kind: "tcp", host: "::1", port: 7 }), "[::1]:7");
});
