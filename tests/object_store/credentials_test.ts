/**
 * Where credentials, region and endpoint come from, and how addresses are made.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  type CredentialContext,
  type CredentialOptions,
  credentialSource,
  findRegion,
} from "../../lib/object_store/s3/credentials.ts";
import {
  addressOf,
  awsEndpoint,
  defaultStyle,
  parseBucketPath,
  parseEndpoint,
} from "../../lib/object_store/s3/place.ts";
import { parseProfiles } from "../../lib/object_store/s3/shared_files.ts";
import { StoreError } from "../../lib/object_store/types.ts";
import { testClock } from "../../lib/testing/context.ts";
import { EMPTY_MACHINE } from "../support/s3_store.ts";

const FILES: Readonly<Record<string, string>> = {
  "/users/a/.aws/credentials": `
# keys
[default]
aws_access_key_id = FILE ; comment
aws_secret_access_key = secret=with/signs
[work]
aws_access_key_id=WORK
aws_secret_access_key=w
aws_session_token=token
[role]
role_arn = arn:aws:iam::1:role/x
`,
  "/users/a/.aws/config": `
[default]
region = eu-west-3
s3 =
  addressing_style = path
[profile work]
region=eu-west-1
[profile inconfig]
aws_access_key_id=CONFIG
aws_secret_access_key=c
`,
  "/keys": "[default]\r\naws_access_key_id=OTHER\r\naws_secret_access_key=o\r\n",
};

function machine(
  env: Readonly<Record<string, string>>,
  rest: Partial<CredentialContext> = {},
): CredentialContext {
  return {
    ...EMPTY_MACHINE,
    clock: testClock,
    env: (name) => ({ HOME: "/users/a", ...env })[name],
    readText: (path) => Promise.resolve(FILES[path] ?? null),
    ...rest,
  };
}

async function keyOf(
  options: CredentialOptions,
  env: Readonly<Record<string, string>> = {},
): Promise<string> {
  return (await credentialSource(options, machine(env)).current()).accessKeyId;
}

Deno.test("credentialSource() takes what was given, the environment, files, in this order", async () => {
  const env = { AWS_ACCESS_KEY_ID: "ENV", AWS_SECRET_ACCESS_KEY: "e" };
  const credentials = { accessKeyId: "GIVEN", secretAccessKey: "g" };
  assert.equal(await keyOf({ credentials }, env), "GIVEN");
  assert.equal(await keyOf({}, env), "ENV");
  assert.equal(await keyOf({ profile: "work" }, env), "WORK");
  assert.equal(await keyOf({ credentialsFile: "/keys" }, env), "OTHER");
  assert.equal(await keyOf({}), "FILE");
  assert.equal(await keyOf({}, { AWS_PROFILE: "inconfig" }), "CONFIG");
  assert.equal(await keyOf({}, { AWS_SHARED_CREDENTIALS_FILE: "/keys" }), "OTHER");
  const work = await credentialSource({ profile: "work" }, machine({})).current();
  assert.equal(work.sessionToken, "token");
});

Deno.test("credentialSource() asks AWS's packages when nothing else has keys", async () => {
  const asked: (string | undefined)[] = [];
  const source = credentialSource(
    { profile: "role" },
    machine({}, {
      askChain: (profile) => {
        asked.push(profile);
        return Promise.resolve({ accessKeyId: "ROLE", secretAccessKey: "r", expiresMs: Infinity });
      },
    }),
  );
  assert.equal((await source.current()).accessKeyId, "ROLE");
  await source.current();
  assert.deepEqual(asked, ["role"]);
  await assert.rejects(
    credentialSource({}, machine({ HOME: "/none" })).current(),
    (error: unknown) =>
      error instanceof StoreError && error.kind === "denied" &&
      /Cannot find credentials: set AWS_ACCESS_KEY_ID .*this test has no AWS/.test(error.message),
  );
  await assert.rejects(
    credentialSource({ credentialsFile: "/keys", profile: "work" }, machine({})).current(),
    /\/keys has no keys of the profile "work"/,
  );
});

Deno.test("credentialSource() renews credentials before they end", async () => {
  let wall = 1_000_000, made = 0;
  const clock = { ...testClock, wall: () => wall };
  const source = credentialSource({}, {
    ...machine({ HOME: "/none" }),
    clock,
    askChain: () => {
      made += 1;
      const secretAccessKey = "s", accessKeyId = `K${made}`;
      return Promise.resolve({ accessKeyId, secretAccessKey, expiresMs: wall + 3_600_000 });
    },
  });
  const first = await source.current();
  assert.equal((await source.current()).accessKeyId, "K1");
  wall += 3_590_000;
  assert.equal((await source.current()).accessKeyId, "K2");
  assert.equal((await source.renew(first))?.accessKeyId, "K2");
  assert.equal(made, 2);
});

Deno.test("askAwsChain() finds what AWS's own packages find", async () => {
  const { askAwsChain } = await import("../../lib/object_store/s3/credentials.ts");
  const before = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map((name) => Deno.env.get(name));
  Deno.env.set("AWS_ACCESS_KEY_ID", "CHAIN");
  Deno.env.set("AWS_SECRET_ACCESS_KEY", "c");
  try {
    const found = await askAwsChain(undefined);
    assert.deepEqual([found.accessKeyId, found.secretAccessKey], ["CHAIN", "c"]);
  } finally {
    for (const [at, name] of ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].entries()) {
      const value = before[at];
      if (value === undefined) Deno.env.delete(name);
      else Deno.env.set(name, value);
    }
  }
});

Deno.test("findRegion() takes the environment or the profile's region", async () => {
  assert.equal(await findRegion({}, machine({ AWS_REGION: "us-west-1" })), "us-west-1");
  assert.equal(await findRegion({}, machine({})), "eu-west-3");
  assert.equal(await findRegion({ profile: "work" }, machine({ AWS_REGION: "x" })), "eu-west-1");
  assert.equal(await findRegion({}, machine({ HOME: "/none" })), null);
});

Deno.test("parseProfiles() reads sections, comments and settings, and survives anything else", () => {
  const profiles = parseProfiles("x=1\n[ profile a ]\nK = v # c\n[[\n=\n[a]\nb=\n[c]]\n");
  assert.deepEqual([...profiles.get("a") ?? []], [["k", "v"], ["b", ""]]);
  assert.equal(profiles.has("c"), true);
});

Deno.test("addressOf() names the bucket in the path or in the host", () => {
  const place = {
    ...parseBucketPath("my-bucket/a b/ü".replace("ü", "u")),
    endpoint: parseEndpoint("http://127.0.0.1:9000"),
    region: "x",
  };
  assert.deepEqual(addressOf({ ...place, style: "path" }, "log/1"), {
    origin: "http://127.0.0.1:9000",
    host: "127.0.0.1:9000",
    path: "/my-bucket/a%20b/u/log/1",
  });
  assert.equal(addressOf({ ...place, style: "path" }, null).path, "/my-bucket");
  const aws = { ...place, endpoint: awsEndpoint("eu-west-1"), style: "virtual" } as const;
  assert.deepEqual(addressOf(aws, null), {
    origin: "https://my-bucket.s3.eu-west-1.amazonaws.com",
    host: "my-bucket.s3.eu-west-1.amazonaws.com",
    path: "/",
  });
  assert.equal(awsEndpoint("cn-north-1").host, "s3.cn-north-1.amazonaws.com.cn");
  assert.equal(defaultStyle(awsEndpoint("eu-west-1"), "my-bucket"), "virtual");
  assert.equal(defaultStyle(awsEndpoint("eu-west-1"), "my.bucket"), "path");
  assert.equal(defaultStyle(parseEndpoint("rgw.example"), "my-bucket"), "path");
});

Deno.test("parseBucketPath() and parseEndpoint() refuse what cannot be", () => {
  assert.deepEqual(parseBucketPath("bucket"), { bucket: "bucket", prefix: "" });
  assert.deepEqual(parseBucketPath("bucket/a/b/"), { bucket: "bucket", prefix: "a/b/" });
  for (const path of ["", "/", "a", "b ucket/x", "bucket/a//b", "bucket/../b", "bucket/\u0007"]) {
    assert.throws(() => parseBucketPath(path), /Cannot use/, path);
  }
  assert.throws(() => parseBucketPath(`bucket/${"a".repeat(701)}`), /more than 700 bytes/);
  assert.equal(parseEndpoint("rgw:7480").href, "https://rgw:7480/");
  for (const text of ["", "http://", "ftp://h", "http://h/x", "http://h?x", "http://u@h"]) {
    assert.throws(() => parseEndpoint(text), /Cannot use the endpoint/, text);
  }
  assert.throws(() => awsEndpoint("eu/west"), /Cannot use the region/);
});
