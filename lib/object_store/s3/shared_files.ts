/**
 * The files that AWS tools share: `~/.aws/credentials` and `~/.aws/config`. Of them the static keys and
 * the region of a profile, as the AWS SDKs and Tools Reference Guide ("Shared config and credentials
 * files") describes them; profiles that name a role, a process or single sign-on are left to AWS's own
 * packages.
 *
 * @module
 */
import type { S3Credentials } from "./sign.ts";

/** Settings by profile. */
export type Profiles = ReadonlyMap<string, ReadonlyMap<string, string>>;

/** Reads such a file. In `config` the profiles other than "default" are named `[profile NAME]`. */
export function parseProfiles(text: string): Profiles {
  const profiles = new Map<string, Map<string, string>>();
  let current: Map<string, string> | null = null;
  for (const line of text.split(/\r?\n/)) {
    const section = /^\s*\[\s*(?:profile\s+)?([^\]]+?)\s*\]/.exec(line)?.[1];
    if (section !== undefined) {
      current = profiles.get(section) ?? new Map();
      profiles.set(section, current);
      continue;
    }
    // Indented lines belong to the setting above, which is none of those that are used here.
    const setting = /^([\w.-]+)\s*=\s*(.*?)(?:\s+[#;].*)?$/.exec(line);
    if (setting?.[1] !== undefined) current?.set(setting[1].toLowerCase(), setting[2] ?? "");
  }
  return profiles;
}

/** The static keys of a profile, or null if it has none. */
export function staticKeys(profile: ReadonlyMap<string, string> | undefined): S3Credentials | null {
  const accessKeyId = profile?.get("aws_access_key_id") ?? "";
  const secretAccessKey = profile?.get("aws_secret_access_key") ?? "";
  if (accessKeyId === "" || secretAccessKey === "") return null;
  const sessionToken = profile?.get("aws_session_token") ?? "";
  return { accessKeyId, secretAccessKey, ...(sessionToken === "" ? {} : { sessionToken }) };
}
