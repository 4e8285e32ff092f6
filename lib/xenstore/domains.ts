/**
 * The domains that a store knows: introduced or not, what they act for, what they own, their quotas.
 * Pure.
 *
 * @module
 */
import { XenstoreError } from "./errors.ts";
import { DOMID_SELF, SERVER_FEATURES } from "./constants.ts";
import {
  QUOTA_NODE_BYTES,
  QUOTA_NODES,
  QUOTA_PERMISSIONS,
  QUOTA_TRANSACTION_NODES,
  QUOTA_TRANSACTIONS,
  QUOTA_WATCHES,
} from "./limits.ts";

/** Quotas by their names in GET_QUOTA and CONTROL quota. */
export const QUOTA_DEFAULTS = {
  nodes: QUOTA_NODES,
  "node-size": QUOTA_NODE_BYTES,
  watches: QUOTA_WATCHES,
  transactions: QUOTA_TRANSACTIONS,
  "node-permissions": QUOTA_PERMISSIONS,
  "transaction-nodes": QUOTA_TRANSACTION_NODES,
} as const;

/** The name of a quota. */
export type QuotaName = keyof typeof QUOTA_DEFAULTS;

/** True for the name of a quota. */
export function isQuotaName(name: string): name is QuotaName {
  return Object.hasOwn(QUOTA_DEFAULTS, name);
}

/** A domain. */
export class Domain {
  /** Its number. */
  readonly domid: number;
  /** INTRODUCE was done and RELEASE was not. */
  introduced = false;
  /** It has shut down and RESUME has not come. */
  shutdown = false;
  /** The domain that it acts for. */
  target: number | null = null;
  /** Nodes that it owns. */
  nodes = 0;
  /** Watches of all its connections. */
  watches = 0;
  /** Features that it is offered, as bits. */
  features: number = SERVER_FEATURES;
  /** Quotas that differ from the store's. */
  readonly quotas: Map<QuotaName, number> = new Map();

  /** A domain that nobody has introduced. */
  constructor(domid: number) {
    this.domid = domid;
  }
}

/** All domains of a store. Domain 0 is always there. */
export class Domains {
  readonly #domains = new Map<number, Domain>();
  readonly #quotas = new Map<QuotaName, number>();

  /** Domain 0 alone. */
  constructor() {
    this.get(0).introduced = true;
  }

  /** The domain of a number, which is made known if it was not. */
  get(domid: number): Domain {
    let domain = this.#domains.get(domid);
    if (domain === undefined) this.#domains.set(domid, domain = new Domain(domid));
    return domain;
  }

  /** The domain of a number if it is known. */
  find(domid: number): Domain | undefined {
    return this.#domains.get(domid);
  }

  /** True for a domain that permissions may name. */
  knows(domid: number): boolean {
    return this.#domains.has(domid);
  }

  /** The domain of a number if it is introduced. Throws ENOENT. */
  introduced(domid: number): Domain {
    const domain = this.#domains.get(domid);
    if (domain?.introduced === true) return domain;
    throw new XenstoreError("ENOENT", `Cannot find domain ${domid}: it is not introduced`);
  }

  /** Forgets a domain. */
  delete(domid: number): void {
    this.#domains.delete(domid);
    for (const domain of this.#domains.values()) {
      if (domain.target === domid) domain.target = null;
    }
  }

  /** A quota of a domain. */
  quota(name: QuotaName, domid: number): number {
    return this.#domains.get(domid)?.quotas.get(name) ?? this.globalQuota(name);
  }

  /** The quota of domains that have none of their own. */
  globalQuota(name: QuotaName): number {
    return this.#quotas.get(name) ?? QUOTA_DEFAULTS[name];
  }

  /** Sets the quota of all domains that have none of their own. */
  setGlobalQuota(name: QuotaName, value: number): void {
    this.#quotas.set(name, value);
  }
}

/** True for a number that a domain can have. */
export function isDomid(domid: number): boolean {
  return Number.isInteger(domid) && domid >= 0 && domid < DOMID_SELF;
}
