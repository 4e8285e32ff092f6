/**
 * What an error of a server means: which kind it is, whether the request surely had no effect, and
 * whether it is worth another attempt. Codes are those of the Amazon S3 API reference ("Error
 * responses"), of Ceph's RADOS gateway and of MinIO.
 *
 * @module
 */
import { StoreError, type StoreErrorKind } from "../types.ts";
import type { ServerError } from "./answers.ts";

/** What to make of an error. */
export interface Meaning {
  /** What is wrong. */
  readonly kind: StoreErrorKind;
  /** The request surely had no effect. */
  readonly hadNoEffect: boolean;
  /** The same request may succeed soon. */
  readonly mayPass: boolean;
  /** What to do, for a human; empty if the server's words say it. */
  readonly advice: string;
}

function lasting(kind: StoreErrorKind, advice = ""): Meaning {
  return { kind, hadNoEffect: true, mayPass: false, advice };
}

/** Overloaded, and the request was turned away. */
const TURNED_AWAY: Meaning = {
  kind: "unavailable",
  hadNoEffect: true,
  mayPass: true,
  advice: "the server is overloaded",
};
/** Something went wrong inside; nobody knows how far it had come. */
const FAILED: Meaning = { kind: "unavailable", hadNoEffect: false, mayPass: true, advice: "" };
/** The body did not arrive as it was sent. */
const DAMAGED: Meaning = { kind: "corrupt", hadNoEffect: true, mayPass: true, advice: "" };

const WRONG_KEY = "the access key is not known there; check the credentials";
const FULL = "the quota or the storage is used up";
const EXPIRED = "the credentials have expired";
const NO_BUCKET = "there is no such bucket";

const BY_CODE: Readonly<Record<string, Meaning>> = {
  AccessDenied: lasting("denied", "the credentials do not permit this"),
  AccountProblem: lasting("denied"),
  AllAccessDisabled: lasting("denied"),
  InvalidAccessKeyId: lasting("denied", WRONG_KEY),
  InvalidClientTokenId: lasting("denied", WRONG_KEY),
  SignatureDoesNotMatch: lasting("denied", "the secret key is wrong; check the credentials"),
  InvalidToken: lasting("denied", "the session token is wrong"),
  UserSuspended: lasting("denied", "the user is suspended"),
  ExpiredToken: lasting("expired", EXPIRED),
  ExpiredTokenException: lasting("expired", EXPIRED),
  TokenRefreshRequired: lasting("expired", EXPIRED),
  RequestTimeTooSkewed: lasting("skewed", "this machine's clock is not that of the server"),
  RequestExpired: lasting("skewed", "this machine's clock is not that of the server"),
  NoSuchBucket: lasting("no-bucket", NO_BUCKET),
  InvalidBucketName: lasting("no-bucket", "no bucket can have this name"),
  QuotaExceeded: lasting("full", FULL),
  ServiceQuotaExceededException: lasting("full", FULL),
  XMinioStorageFull: lasting("full", FULL),
  InsufficientStorage: lasting("full", FULL),
  NotImplemented: lasting("unsupported", "the server does not have this"),
  MethodNotAllowed: lasting("unsupported", "the server does not have this"),
  SlowDown: TURNED_AWAY,
  ServiceUnavailable: TURNED_AWAY,
  Throttling: TURNED_AWAY,
  ThrottlingException: TURNED_AWAY,
  RequestThrottled: TURNED_AWAY,
  RequestLimitExceeded: TURNED_AWAY,
  TooManyRequests: TURNED_AWAY,
  BadDigest: DAMAGED,
  IncompleteBody: DAMAGED,
  XAmzContentSHA256Mismatch: DAMAGED,
  RequestTimeout: { ...TURNED_AWAY, advice: "the server waited too long for the request" },
  InternalError: FAILED,
  OperationAborted: FAILED,
  ConditionalRequestConflict: FAILED,
};

const BY_STATUS: Readonly<Record<number, Meaning>> = {
  400: lasting("unsupported"),
  401: lasting("denied"),
  403: lasting("denied"),
  404: lasting("unavailable", "an S3 server would say what was not found; check the endpoint"),
  405: lasting("unsupported", "the server does not have this"),
  409: FAILED,
  411: lasting("unsupported"),
  413: lasting("unsupported", "the server takes no object of this size"),
  429: TURNED_AWAY,
  501: lasting("unsupported", "the server does not have this"),
  507: lasting("full", FULL),
};

/** Where the bucket is, if that is what the server complains of. */
function elsewhere({ status, code, region }: ServerError): Meaning | null {
  const redirected = status === 301 || status === 307 || status === 308;
  const wrongRegion = code === "AuthorizationHeaderMalformed" ||
    code === "IllegalLocationConstraintException";
  if (!redirected && !wrongRegion) return null;
  const advice = region === null
    ? "the bucket is at another endpoint or in another region"
    : `the bucket is in the region ${region}; give region=${region}`;
  return lasting("no-bucket", advice);
}

/** What an error means. */
export function meaningOf(error: ServerError): Meaning {
  const known = elsewhere(error) ?? BY_CODE[error.code] ?? BY_STATUS[error.status];
  if (known !== undefined) return known;
  return error.status >= 500 ? FAILED : lasting("unavailable", "this answer was not expected");
}

/** An error for whoever made the call. `action` is "create log/1 of s3://…". */
export function serverError(
  action: string,
  error: ServerError,
  kind: StoreErrorKind = meaningOf(error).kind,
): StoreError {
  const { advice } = meaningOf(error);
  const said = [error.code, error.message].filter((part) => part !== "").join(": ");
  const answer = `HTTP ${error.status}${said === "" ? "" : ` ${said}`}`;
  const reason = advice === "" ? answer : `${advice} (${answer})`;
  return new StoreError(kind, `Cannot ${action}: ${reason}`);
}
