/**
 * The S3 client as tests want it: no environment, no files, chance that repeats itself, and pauses that
 * pass at once.
 *
 * @module
 */
import type { Clock } from "../../lib/block/context.ts";
import {
  connectS3,
  type CredentialContext,
  type ObjectStore,
  type S3Options,
} from "../../lib/object_store/mod.ts";
import { type CollectedLog, collectedLog, testClock } from "../../lib/testing/context.ts";
import { seededRandom } from "../../lib/testing/random.ts";
import { type S3TestServer, TEST_BUCKET, TEST_CREDENTIALS, TEST_REGION } from "./s3_server.ts";

/** Pauses between attempts are over at once; the time-outs of requests are the machine's. */
export const hastyClock: Clock = {
  ...testClock,
  sleep: (ms, signal) => ms > 10_000 ? testClock.sleep(ms, signal) : Promise.resolve(),
};

/** No environment, no files, no AWS. */
export const EMPTY_MACHINE: Omit<CredentialContext, "clock"> = {
  env: () => undefined,
  readText: () => Promise.resolve(null),
  askChain: () => Promise.reject(new Error("this test has no AWS")),
};

/** A store on a test server. */
export interface TestStore extends AsyncDisposable {
  readonly store: ObjectStore;
  readonly log: CollectedLog;
}

/** Opens the bucket of a test server, or another one. */
export async function connectTo(
  server: S3TestServer,
  different: Partial<S3Options> = {},
  machine: Partial<Omit<CredentialContext, "clock">> = {},
): Promise<TestStore> {
  const log = collectedLog();
  const store = await connectS3({
    path: `${TEST_BUCKET}/some/prefix`,
    endpoint: server.endpoint,
    region: TEST_REGION,
    credentials: TEST_CREDENTIALS,
    ...different,
  }, {
    clock: hastyClock,
    random: seededRandom(1),
    log,
    machine: { ...EMPTY_MACHINE, ...machine },
  });
  return { store, log, [Symbol.asyncDispose]: () => store[Symbol.asyncDispose]() };
}
