/**
 * Which domain a user is. User ids do not fit the 16 bits of a domain's number, so a table says who is
 * who: root and the user of this process are domain 0, whoever is not listed is refused.
 *
 * @module
 */
import { isDomid } from "./domains.ts";

/** The domain of a user, null for one that is refused. */
export function domainOfUser(
  uid: number,
  domains: ReadonlyMap<number, number> = new Map(),
): number | null {
  return uid === 0 || uid === Deno.uid() ? 0 : domains.get(uid) ?? null;
}

/** Throws RangeError for a table with a domain that cannot be. */
export function checkDomains(domains: ReadonlyMap<number, number>): void {
  for (const [uid, domid] of domains) {
    if (!isDomid(domid)) {
      throw new RangeError(`Cannot map user ${uid} to domain ${domid}: no such number`);
    }
  }
}
