/**
 * The S3 client against the test server: the contract, and that each fault ends as it has to.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { type ObjectStore, probeStore, StoreError } from "../../lib/object_store/mod.ts";
import { ATTEMPTS_MAX } from "../../lib/object_store/s3/limits.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { makeCertificates } from "../support/certificates.ts";
import {
  type S3Fault,
  startS3Server,
  TEST_BUCKET,
  TEST_CREDENTIALS,
} from "../support/s3_server.ts";
import { connectTo } from "../support/s3_store.ts";
import { bytesOf, checkStore, keysOf } from "../support/store_contract.ts";
import { interopTest, withTempDir } from "../support/tools.ts";

const BODY = bytesOf(1, 10_000);

/** Faults of the next requests, in turn; then none. */
function inTurn(...faults: readonly (S3Fault | null)[]): () => S3Fault | null {
  const left = [...faults];
  return () => left.shift() ?? null;
}

function answer(status: number, code: string, afterEffect = false): S3Fault {
  return { kind: "answer", status, code, afterEffect };
}

/** The connection ends without an answer. */
function isEnd({ kind }: S3Fault): boolean {
  return kind === "drop" || kind === "lose-reply";
}

function hasKind(kind: string, text: RegExp, errno?: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof StoreError, String(error));
    assert.equal(error.kind, kind, error.message);
    assert.match(error.message, text);
    assert.ok(!error.message.endsWith("."), error.message);
    if (errno !== undefined) assert.equal(error.errno, errno);
    return true;
  };
}

Deno.test("connectS3() keeps the contract of object stores", async () => {
  await using server = await startS3Server({ pageEntries: 7 });
  await using test = await connectTo(server);
  await checkStore(test.store, { entries: 100 });
  assert.ok([...server.objects.keys()].every((key) => key.startsWith("some/prefix/")));
  assert.equal(test.store.name, "s3://disks/some/prefix");
  await probeStore(test.store, seededRandom(1));
  assert.deepEqual(await keysOf(test.store, "probe/"), []);
});

Deno.test("connectS3() lists what is a key when there are other objects", async () => {
  await using server = await startS3Server();
  await using test = await connectTo(server, { path: `${TEST_BUCKET}/a & b<c>/` });
  await test.store.create("log/1", [BODY]);
  const [object] = server.objects.values();
  assert.ok(object !== undefined);
  for (const key of ["a & b<c>/", "a & b<c>/Other", "a & b<c>x/log/2"]) {
    server.objects.set(key, object);
  }
  assert.deepEqual(await keysOf(test.store, ""), ["log/1"]);
  await test.store.delete(["log/1", "log/2"]);
  assert.deepEqual(await keysOf(test.store, ""), []);
});

Deno.test("connectS3() repeats what is safe to repeat, and counts it", async () => {
  const faults: readonly S3Fault[] = [
    answer(500, "InternalError"),
    answer(503, "SlowDown"),
    answer(409, "OperationAborted"),
    answer(400, "RequestTimeout"),
    { kind: "answer", status: 502, code: "", body: "<html>bad gateway" },
    { kind: "drop" },
    { kind: "lose-reply" },
    { kind: "truncate" },
    { kind: "corrupt" },
  ];
  await using server = await startS3Server();
  await using test = await connectTo(server);
  const { store } = test;
  await store.create("a", [BODY]);
  for (const fault of faults) {
    server.settings.plan = inTurn(fault, fault);
    const before = server.requests.length, { retries } = store.counts;
    assert.deepEqual(await store.get("a"), BODY, JSON.stringify(fault));
    assert.equal(server.requests.length, before + 3, JSON.stringify(fault));
    // Of connections that end, fetch itself repeats some.
    const own = store.counts.retries - retries;
    assert.ok(own === 2 || (own === 1 && isEnd(fault)), `${own} retries: ${JSON.stringify(fault)}`);
  }
  for (const fault of faults.filter(({ kind }) => kind !== "corrupt")) {
    server.settings.plan = inTurn(fault);
    assert.deepEqual(await keysOf(store, ""), ["a"], JSON.stringify(fault));
    server.settings.plan = inTurn(fault);
    await store.delete(["b", "c"]);
  }
});

Deno.test("connectS3() creates in the end when attempts before surely had no effect", async () => {
  await using server = await startS3Server();
  await using test = await connectTo(server);
  const { store } = test;
  const codes: readonly [number, string][] = [
    [503, "SlowDown"],
    [503, "ServiceUnavailable"],
    [429, "TooManyRequests"],
    [400, "RequestTimeout"],
    [400, "IncompleteBody"],
  ];
  for (const [status, code] of codes) {
    server.settings.plan = inTurn(answer(status, code), answer(status, code));
    assert.equal(await store.create(`a/${code.toLowerCase()}`, [BODY]), "created");
  }
  assert.equal(store.counts.retries, codes.length * 2);
});

Deno.test("connectS3() says unclear when a creation may have happened, and asks only once", async () => {
  const faults: readonly [S3Fault, boolean][] = [
    [{ kind: "drop" }, false],
    [{ kind: "lose-reply" }, true],
    [answer(500, "InternalError"), false],
    [answer(500, "InternalError", true), true],
    [answer(504, "", true), true],
    [{ kind: "answer", status: 503, code: "", body: "proxy", afterEffect: true }, true],
    [answer(409, "ConditionalRequestConflict"), false],
  ];
  await using server = await startS3Server();
  await using test = await connectTo(server);
  const { store } = test;
  for (const [number, [fault, effect]] of faults.entries()) {
    server.settings.plan = () => fault;
    const before = server.requests.length;
    await assert.rejects(
      store.create(`log/${number}`, [BODY]),
      hasKind("unclear", /^Cannot create log\/\d of s3:.*; whether it happened is not known$/),
    );
    const asked = server.requests.length - before;
    assert.ok(asked === 1 || (asked === 2 && isEnd(fault)), JSON.stringify(fault));
    server.settings.plan = () => null;
    assert.equal(await store.get(`log/${number}`) !== null, effect, JSON.stringify(fault));
  }
  assert.equal(store.counts.retries, 0);
});

Deno.test("connectS3() says unclear or exists when only the answer to a creation was lost", async () => {
  await using server = await startS3Server();
  await using test = await connectTo(server);
  const { store } = test;
  for (const key of ["first", "second"]) {
    server.settings.plan = inTurn({ kind: "lose-reply" });
    const result = await store.create(key, [BODY]).catch((error) => {
      return error instanceof StoreError ? error.kind : error;
    });
    assert.ok(result === "unclear" || result === "exists", String(result));
    assert.deepEqual(await store.get(key), BODY);
  }
});

Deno.test("connectS3() says what is wrong when the server refuses", async () => {
  const cases: readonly [S3Fault, string, RegExp, string][] = [
    [answer(403, "AccessDenied"), "denied", /do not permit this \(HTTP 403 AccessDenied/, "EACCES"],
    [answer(403, "InvalidAccessKeyId"), "denied", /access key is not known there/, "EACCES"],
    [answer(403, "SignatureDoesNotMatch"), "denied", /the secret key is wrong/, "EACCES"],
    [answer(404, "NoSuchBucket"), "no-bucket", /there is no such bucket/, "ENOENT"],
    [answer(403, "QuotaExceeded"), "full", /quota or the storage is used up/, "ENOSPC"],
    [answer(507, "XMinioStorageFull"), "full", /used up/, "ENOSPC"],
    [answer(501, "NotImplemented"), "unsupported", /does not have this/, "EOPNOTSUPP"],
    [answer(400, "ExpiredToken"), "expired", /the credentials have expired/, "EACCES"],
    [
      { kind: "answer", status: 418, code: "", body: "tea" },
      "unavailable",
      /this answer was not expected \(HTTP 418\)/,
      "EHOSTUNREACH",
    ],
    [
      { kind: "answer", status: 404, code: "", body: "<html>not here" },
      "unavailable",
      /check the endpoint \(HTTP 404\)/,
      "EHOSTUNREACH",
    ],
    [
      { kind: "answer", status: 301, code: "", headers: { "x-amz-bucket-region": "us-west-2" } },
      "no-bucket",
      /the bucket is in the region us-west-2; give region=us-west-2/,
      "ENOENT",
    ],
  ];
  await using server = await startS3Server();
  await using test = await connectTo(server);
  const { store } = test;
  for (const [fault, kind, text, errno] of cases) {
    server.settings.plan = () => fault;
    const before = server.requests.length;
    await assert.rejects(store.create("a", [BODY]), hasKind(kind, text, errno));
    await assert.rejects(store.get("a"), hasKind(kind, text, errno));
    await assert.rejects(keysOf(store, ""), hasKind(kind, text, errno));
    await assert.rejects(store.delete(["a"]), hasKind(kind, text, errno));
    assert.equal(server.requests.length, before + 4, "it asks once");
  }
  assert.equal(server.objects.size, 0);
});

Deno.test("connectS3() says what is wrong with key, secret, region, bucket, quota", async () => {
  await using server = await startS3Server({ quotaBytes: 15_000 });
  const attempt = async (
    different: Parameters<typeof connectTo>[1],
    call: (store: ObjectStore) => Promise<unknown>,
    wanted: (error: unknown) => boolean,
  ): Promise<void> => {
    await using test = await connectTo(server, different);
    await assert.rejects(call(test.store), wanted);
  };
  const read = (store: ObjectStore): Promise<unknown> => store.get("a");
  const foreign = { ...TEST_CREDENTIALS, accessKeyId: "AKIDOTHER" };
  await attempt({ credentials: foreign }, read, hasKind("denied", /access key is not known/));
  const wrong = { ...TEST_CREDENTIALS, secretAccessKey: "guessed" };
  await attempt({ credentials: wrong }, read, hasKind("denied", /the secret key is wrong/));
  await attempt({ region: "us-east-1" }, read, hasKind("no-bucket", /give region=eu-north-1/));
  await attempt({ path: "other/x" }, read, hasKind("no-bucket", /no such bucket/));
  await attempt({}, async (store) => {
    await store.create("a", [BODY]);
    await store.create("b", [BODY]);
  }, hasKind("full", /Cannot create b of s3:.*quota/, "ENOSPC"));
});

Deno.test("connectS3() gives up after some attempts when there is no server", async () => {
  const server = await startS3Server();
  await using test = await connectTo(server);
  await server[Symbol.asyncDispose]();
  const { store } = test;
  const refused = hasKind(
    "unavailable",
    /127\.0\.0\.1:\d+ does not answer: .*refused/,
    "ECONNREFUSED",
  );
  await assert.rejects(store.create("a", [BODY]), refused);
  assert.equal(store.counts.puts, ATTEMPTS_MAX);
  await assert.rejects(store.get("a"), refused);
});

Deno.test("connectS3() stops repeating when its budget of retries is used up", async () => {
  await using server = await startS3Server({ plan: () => answer(503, "SlowDown") });
  await using test = await connectTo(server);
  for (let round = 0; round < 40; round += 1) {
    await assert.rejects(test.store.get("a"), hasKind("unavailable", /overloaded/));
  }
  assert.equal(test.store.counts.retries, 100);
  assert.equal(server.requests.length, 140);
});

Deno.test("connectS3() reports a body that stays damaged as corrupt", async () => {
  await using server = await startS3Server();
  await using test = await connectTo(server);
  await test.store.create("a", [BODY]);
  server.settings.plan = () => ({ kind: "corrupt" });
  await assert.rejects(test.store.get("a"), hasKind("corrupt", /its CRC-32 is/, "EIO"));
  server.settings.plan = () => ({ kind: "truncate" });
  await assert.rejects(test.store.get("a"), hasKind("unavailable", /does not answer/));
});

Deno.test("connectS3() corrects its clock when the server's is another", async () => {
  for (const skewMs of [-3_600_000, 7_200_000]) {
    await using server = await startS3Server({ skewMs });
    await using test = await connectTo(server);
    assert.equal(await test.store.create("a", [BODY]), "created");
    assert.deepEqual(await test.store.get("a"), BODY);
    assert.equal(server.requests.length, 3);
    const warnings = test.log.lines.filter(({ level }) => level === "warn");
    assert.equal(warnings.length, 1);
    assert.match(
      warnings[0]?.message ?? "",
      skewMs > 0 ? /7(19|20)\d s behind/ : /36\d\d s ahead of/,
    );
  }
  await using server = await startS3Server({ plan: () => answer(403, "RequestTimeTooSkewed") });
  await using test = await connectTo(server);
  await assert.rejects(test.store.get("a"), hasKind("skewed", /clock/));
  assert.equal(server.requests.length, 2);
});

Deno.test("connectS3() renews credentials that have ended", async () => {
  const fresh = { accessKeyId: "AKIDFRESH", secretAccessKey: "s", sessionToken: "new" };
  await using server = await startS3Server({ credentials: fresh, expired: new Set(["old"]) });
  server.settings.credentials = { ...fresh, sessionToken: "old" };
  let token = "old";
  const file = (): string =>
    `[work]\naws_access_key_id = AKIDFRESH\naws_secret_access_key=s\naws_session_token=${token}\n`;
  await using test = await connectTo(server, { credentials: undefined, profile: "work" }, {
    readText: (path) => Promise.resolve(path.endsWith("/.aws/credentials") ? file() : null),
  });
  await assert.rejects(test.store.get("a"), hasKind("expired", /have expired/));
  server.settings.credentials = fresh;
  token = "new";
  assert.equal(await test.store.create("a", [BODY]), "created");
  assert.equal(test.store.counts.retries, 1);
});

Deno.test("connectS3() deletes one by one when the server cannot delete together", async () => {
  await using server = await startS3Server({ deletesTogether: false });
  await using test = await connectTo(server);
  for (const key of ["a", "b", "c"]) await test.store.create(key, [BODY]);
  await test.store.delete(["a", "b", "x"]);
  await test.store.delete(["c", "y"]);
  assert.equal(server.objects.size, 0);
  assert.equal(server.requests.filter((request) => request.startsWith("POST")).length, 1);
});

Deno.test("connectS3() gives a call up when its signal aborts", async () => {
  const held = Promise.withResolvers<void>(), came = Promise.withResolvers<void>();
  await using server = await startS3Server({
    plan: () => {
      came.resolve();
      return { kind: "hold", until: held.promise };
    },
  });
  await using test = await connectTo(server);
  const controller = new AbortController();
  const call = test.store.get("a", undefined, { signal: controller.signal });
  await came.promise;
  const reason = new Error("enough");
  controller.abort(reason);
  await assert.rejects(call, (error: unknown) => error === reason);
  held.resolve();
});

Deno.test("probeStore() refuses a store that does not create only what is absent", async () => {
  await using server = await startS3Server({ conditions: "ignored" });
  await using test = await connectTo(server);
  await assert.rejects(
    probeStore(test.store, seededRandom(1)),
    hasKind("unsupported", /Cannot write to s3:.*it overwrites objects.*read-only alone/),
  );
  server.settings.conditions = "refused";
  await assert.rejects(
    probeStore(test.store, seededRandom(1)),
    hasKind("unsupported", /does not create only what is absent \(.*HTTP 501 NotImplemented/),
  );
  assert.equal(server.objects.size, 0);
});

Deno.test("probeStore() tries again when an outcome is unclear", async () => {
  await using server = await startS3Server({
    plan: inTurn({ kind: "lose-reply" }, null, null, answer(500, "InternalError")),
  });
  await using test = await connectTo(server);
  await probeStore(test.store, seededRandom(1));
  assert.equal(server.objects.size, 0);
  server.settings.plan = ({ method }) => method === "PUT" ? { kind: "drop" } : null;
  await assert.rejects(
    probeStore(test.store, seededRandom(2)),
    hasKind("unavailable", /could not be found out/),
  );
});

interopTest(
  "connectS3() trusts a certificate when its authority is given",
  ["certtool"],
  () =>
    withTempDir(async (folder) => {
      const { server: folderOfServer } = await makeCertificates(folder);
      const text = (name: string): string => Deno.readTextFileSync(join(folderOfServer, name));
      const certificate = { cert: text("server-cert.pem"), key: text("server-key.pem") };
      await using server = await startS3Server({ certificate });
      const readText = Deno.readTextFile;
      const caFile = join(folderOfServer, "ca-cert.pem");
      await using trusting = await connectTo(server, { caFile }, { readText });
      assert.equal(await trusting.store.create("a", [BODY]), "created");
      await using distrustful = await connectTo(server);
      await assert.rejects(
        distrustful.store.get("a"),
        hasKind("unavailable", /does not answer: .*certificate/),
      );
      await assert.rejects(
        connectTo(server, { caFile: "/none" }),
        /Cannot use the certificates in \/none: there is no such file/,
      );
    }),
);
