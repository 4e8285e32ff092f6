/**
 * Signature Version 4 against the examples of the Amazon S3 API reference and against aws4fetch.
 *
 * @module
 */
import assert from "node:assert/strict";
import { AwsV4Signer } from "aws4fetch";
import {
  amzDate,
  encodePath,
  encodeQuery,
  sha256,
  Signer,
  type Unsigned,
} from "../../lib/object_store/s3/sign.ts";
import { seededRandom } from "../../lib/testing/random.ts";

const CREDENTIALS = {
  accessKeyId: "AKIAIOSFODNN7EXAMPLE",
  secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};
const TIME_MS = Date.UTC(2013, 4, 24);
const HOST = "examplebucket.s3.amazonaws.com";

/** The examples of "Signature Calculations for the Authorization Header". */
const EXAMPLES: readonly (Partial<Unsigned> & { readonly signature: string })[] = [
  {
    path: "/test.txt",
    headers: { host: HOST, range: "bytes=0-9" },
    signature: "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  },
  {
    method: "PUT",
    path: encodePath("/test$file.text"),
    headers: {
      host: HOST,
      date: "Fri, 24 May 2013 00:00:00 GMT",
      "x-amz-storage-class": "REDUCED_REDUNDANCY",
    },
    payloadHash: sha256("Welcome to Amazon S3."),
    signature: "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
  },
  {
    query: [["lifecycle", ""]],
    signature: "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
  },
  {
    query: [["prefix", "J"], ["max-keys", "2"]],
    signature: "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
  },
];

Deno.test("Signer signs the examples of the S3 reference as that does", () => {
  const signer = new Signer("us-east-1");
  for (const { signature, ...different } of EXAMPLES) {
    const headers = signer.sign(
      {
        method: "GET",
        path: "/",
        query: [],
        headers: { host: HOST },
        payloadHash: sha256(""),
        ...different,
      },
      CREDENTIALS,
      TIME_MS,
    );
    assert.match(headers.authorization ?? "", new RegExp(`Signature=${signature}$`));
  }
});

Deno.test("Signer derives the key of the general reference's example", () => {
  const key = new Signer("us-east-1", "iam")
    .signingKey("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830");
  assert.equal(
    key.toHex(),
    "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9",
  );
});

Deno.test("Signer signs as aws4fetch does when requests are of all kinds", async () => {
  const random = seededRandom(5);
  const signs = [..."abcXYZ019-_.~ /+&=%?#!'()*,;:@$[]äß€"];
  const word = (most: number): string =>
    Array.from({ length: 1 + random.below(most) }, () => random.pick(signs)).join("");
  const signer = new Signer("eu-north-1");
  for (let round = 0; round < 200; round += 1) {
    const path = encodePath(
      `/bucket/${word(9).replace(/[./]/g, "x")}/${word(9).replace(/[./]/g, "y")}`,
    );
    const query = Array.from({ length: random.below(4) }, (_, index): [string, string] => [
      // aws4fetch leaves out a name that comes again.
      `${word(6)}${index}`,
      word(8),
    ]);
    const sessionToken = random.oneIn(2) ? word(9).replace(/[^\x21-\x7e]/g, "x") : undefined;
    const credentials = { ...CREDENTIALS, ...(sessionToken !== undefined && { sessionToken }) };
    const method = random.pick(["GET", "PUT", "POST", "DELETE"]);
    const timeMs = TIME_MS + random.below(1e12);
    const headers = signer.sign(
      {
        method,
        path,
        query,
        headers: { host: "h.example:9000", range: "bytes=0-1", "x-amz-meta-a": " a  b " },
        payloadHash: sha256(word(30)),
      },
      credentials,
      timeMs,
    );
    const { authorization, host, ...rest } = headers;
    const url = `https://${host}${path}${query.length === 0 ? "" : `?${encodeQuery(query)}`}`;
    const other = new AwsV4Signer({
      ...credentials,
      url,
      method,
      headers: Object.entries(rest),
      service: "s3",
      region: "eu-north-1",
      datetime: amzDate(timeMs),
      allHeaders: true,
    });
    assert.equal(authorization, await other.authHeader(), url);
  }
});
