/**
 * A bucket of Amazon S3, Ceph's RADOS gateway, MinIO or another server that speaks their protocol, as an
 * object store. What is not given is found as AWS's tools find it.
 *
 * @module
 */
import type { Clock, Log, Random } from "../../block/context.ts";
import { UsageError } from "../../block/usage_error.ts";
import type { ObjectStore } from "../types.ts";
import {
  askAwsChain,
  type CredentialContext,
  type CredentialOptions,
  credentialSource,
  findRegion,
} from "./credentials.ts";
import { httpClient } from "./http.ts";
import {
  type AddressStyle,
  awsEndpoint,
  defaultStyle,
  parseBucketPath,
  parseEndpoint,
} from "./place.ts";
import { openS3Store } from "./store.ts";

export type { AddressStyle } from "./place.ts";
export type { CredentialContext, CredentialOptions } from "./credentials.ts";
export type { S3Credentials } from "./sign.ts";

/** Which bucket, and how to get there. */
export interface S3Options extends CredentialOptions {
  /** `bucket/prefix`; the prefix may be left out. */
  readonly path: string;
  /** `https://host[:port]`; AWS's endpoint of the region if left out. */
  readonly endpoint?: string | undefined;
  /** What requests are signed for; as AWS's tools find it if left out, or "us-east-1". */
  readonly region?: string | undefined;
  /** How the bucket is named in addresses; what suits the endpoint if left out. */
  readonly style?: AddressStyle | undefined;
  /** A file with certificates (PEM) that are trusted besides the system's. */
  readonly caFile?: string | undefined;
}

/** What a store works with. */
export interface S3Context {
  /** Time. */
  readonly clock: Clock;
  /** Chance. */
  readonly random: Random;
  /** Messages. */
  readonly log: Log;
  /** Environment, files and AWS's packages; those of this machine if left out. */
  readonly machine?: Omit<CredentialContext, "clock">;
}

const REGION_DEFAULT = "us-east-1";

/** The machine that this runs on. */
const SYSTEM: Omit<CredentialContext, "clock"> = {
  env: (name) => Deno.env.get(name),
  readText: async (path) => {
    try {
      return await Deno.readTextFile(path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return null;
      throw error;
    }
  },
  askChain: askAwsChain,
};

async function certificates(
  options: S3Options,
  { env, readText }: CredentialContext,
): Promise<string[]> {
  const path = options.caFile ?? env("AWS_CA_BUNDLE") ?? "";
  if (path === "") return [];
  const text = await readText(path);
  if (text !== null && text.includes("-----BEGIN CERTIFICATE-----")) return [text];
  const reason = text === null ? "there is no such file" : "it has no certificate (PEM)";
  throw new UsageError(`Cannot use the certificates in ${path}: ${reason}`);
}

/**
 * Opens a bucket. Nothing is asked of the server yet. Throws UsageError for what was written wrong, and
 * StoreError if a file of credentials cannot be read.
 */
export async function connectS3(options: S3Options, context: S3Context): Promise<ObjectStore> {
  const { clock, random, log, machine = SYSTEM } = context;
  const finding: CredentialContext = { ...machine, clock };
  const { bucket, prefix } = parseBucketPath(options.path);
  const region = options.region ?? await findRegion(options, finding) ?? REGION_DEFAULT;
  const named = options.endpoint ?? finding.env("AWS_ENDPOINT_URL_S3") ??
    finding.env("AWS_ENDPOINT_URL") ?? "";
  const endpoint = named === "" ? awsEndpoint(region) : parseEndpoint(named);
  const style = options.style ?? defaultStyle(endpoint, bucket);
  const http = httpClient(clock, await certificates(options, finding));
  return openS3Store({ bucket, prefix, endpoint, region, style }, {
    clock,
    random,
    log,
    credentials: credentialSource(options, finding),
    http,
  });
}
