/**
 * Where credentials come from: what was given, else the environment, else the files that AWS tools share,
 * else everything that AWS's own packages know (roles, single sign-on, containers, instances), which are
 * loaded only then. Credentials that end are renewed before they do.
 *
 * @module
 */
import type { Clock } from "../../block/context.ts";
import { StoreError } from "../types.ts";
import { CREDENTIALS_MS_MAX, RENEWAL_MS } from "./limits.ts";
import { parseProfiles, type Profiles, staticKeys } from "./shared_files.ts";
import type { S3Credentials } from "./sign.ts";

/** What finding credentials needs of the machine. */
export interface CredentialContext {
  /** For the end of credentials. */
  readonly clock: Clock;
  /** A variable of the environment. */
  env(name: string): string | undefined;
  /** The text of a file, or null if there is none. */
  readText(path: string): Promise<string | null>;
  /** Asks AWS's own packages. Rejects if they find none. */
  askChain(profile: string | undefined): Promise<S3Credentials>;
}

/** What was asked for. */
export interface CredentialOptions {
  /** These, and no others. */
  readonly credentials?: S3Credentials | undefined;
  /** A profile of the shared files; it goes before the environment. */
  readonly profile?: string | undefined;
  /** The credentials file; `~/.aws/credentials` if left out. It goes before the environment. */
  readonly credentialsFile?: string | undefined;
}

/** Gives credentials, now and later. */
export interface CredentialSource {
  /** What to sign with now. Throws StoreError. */
  current(): Promise<S3Credentials>;
  /** The server says that `old` has ended: looks again. Gives null if there are no others. */
  renew(old: S3Credentials): Promise<S3Credentials | null>;
}

/** Asks AWS's packages; they are loaded when this is called. */
export async function askAwsChain(profile: string | undefined): Promise<S3Credentials> {
  const { fromNodeProviderChain } = await import("@aws-sdk/credential-providers");
  const found = await fromNodeProviderChain({ ...(profile === undefined ? {} : { profile }) })();
  const { accessKeyId, secretAccessKey, sessionToken, expiration } = found;
  return {
    accessKeyId,
    secretAccessKey,
    ...(sessionToken === undefined ? {} : { sessionToken }),
    ...(expiration === undefined ? {} : { expiresMs: expiration.getTime() }),
  };
}

/** Credentials of the environment, or null. */
function fromEnvironment({ env }: CredentialContext): S3Credentials | null {
  const accessKeyId = env("AWS_ACCESS_KEY_ID") ?? "";
  const secretAccessKey = env("AWS_SECRET_ACCESS_KEY") ?? "";
  if (accessKeyId === "" || secretAccessKey === "") return null;
  const sessionToken = env("AWS_SESSION_TOKEN") ?? "";
  return { accessKeyId, secretAccessKey, ...(sessionToken === "" ? {} : { sessionToken }) };
}

function homePath(context: CredentialContext, name: string): string {
  return `${context.env("HOME") ?? ""}/.aws/${name}`;
}

async function profilesOf(context: CredentialContext, path: string): Promise<Profiles> {
  try {
    return parseProfiles(await context.readText(path) ?? "");
  } catch (error) {
    throw new StoreError("denied", `Cannot read credentials: ${path}: ${String(error)}`, {
      cause: error,
    });
  }
}

function chosenProfile(options: CredentialOptions, context: CredentialContext): string | undefined {
  return options.profile ?? context.env("AWS_PROFILE");
}

/** The region that the environment or the profile names, or null. */
export async function findRegion(
  options: CredentialOptions,
  context: CredentialContext,
): Promise<string | null> {
  const named = context.env("AWS_REGION") ?? context.env("AWS_DEFAULT_REGION") ?? "";
  if (named !== "" && options.profile === undefined) return named;
  const path = context.env("AWS_CONFIG_FILE") ?? homePath(context, "config");
  const profiles = await profilesOf(context, path);
  const region = profiles.get(chosenProfile(options, context) ?? "default")?.get("region") ?? named;
  return region === "" ? null : region;
}

async function fromFiles(
  options: CredentialOptions,
  context: CredentialContext,
): Promise<S3Credentials | null> {
  const profile = chosenProfile(options, context) ?? "default";
  const path = options.credentialsFile ?? context.env("AWS_SHARED_CREDENTIALS_FILE") ??
    homePath(context, "credentials");
  const found = staticKeys((await profilesOf(context, path)).get(profile));
  if (found !== null) return found;
  if (options.credentialsFile !== undefined) {
    const reason = `${path} has no keys of the profile "${profile}"`;
    throw new StoreError("denied", `Cannot find credentials: ${reason}`);
  }
  const config = context.env("AWS_CONFIG_FILE") ?? homePath(context, "config");
  return staticKeys((await profilesOf(context, config)).get(profile));
}

async function find(
  options: CredentialOptions,
  context: CredentialContext,
): Promise<S3Credentials> {
  if (options.credentials !== undefined) return options.credentials;
  const given = options.profile !== undefined || options.credentialsFile !== undefined;
  const found = (given ? null : fromEnvironment(context)) ?? await fromFiles(options, context);
  if (found !== null) return found;
  const chain = context.askChain(chosenProfile(options, context));
  const ended = new AbortController();
  try {
    return await Promise.race([
      chain,
      context.clock.sleep(CREDENTIALS_MS_MAX, ended.signal).then(() => {
        throw new Error(`nothing was found within ${CREDENTIALS_MS_MAX / 1000} s`);
      }),
    ]);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new StoreError(
      "denied",
      "Cannot find credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write them to " +
        `~/.aws/credentials (${reason})`,
      { cause: error },
    );
  } finally {
    ended.abort(new Error("credentials were found"));
  }
}

/** Makes a source of credentials. Nothing is looked for before they are wanted. */
export function credentialSource(
  options: CredentialOptions,
  context: CredentialContext,
): CredentialSource {
  let known: Promise<S3Credentials> | null = null;
  const look = (): Promise<S3Credentials> => {
    const looking = find(options, context);
    known = looking;
    // A failure is not kept: the next call looks again.
    looking.catch(() => {
      if (known === looking) known = null;
    });
    return looking;
  };
  const current = async (): Promise<S3Credentials> => {
    const found = await (known ?? look());
    const { expiresMs = Infinity } = found;
    if (expiresMs - context.clock.wall() > RENEWAL_MS) return found;
    try {
      return await look();
    } catch (error) {
      if (expiresMs > context.clock.wall()) return found;
      throw error;
    }
  };
  const renew = async (old: S3Credentials): Promise<S3Credentials | null> => {
    const before = await (known ?? look());
    // Somebody else has renewed them meanwhile.
    const found = before.accessKeyId === old.accessKeyId && before.sessionToken === old.sessionToken
      ? await look()
      : before;
    const isSame = found.accessKeyId === old.accessKeyId &&
      found.secretAccessKey === old.secretAccessKey && found.sessionToken === old.sessionToken;
    return isSame ? null : found;
  };
  return { current, renew };
}
