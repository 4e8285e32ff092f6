/**
 * The commands of CONTROL, for domain 0: a small set of those of xenstored, as `xenstore-control` sends
 * them.
 *
 * @module
 */
import type { StoreConnection } from "./connection.ts";
import { isQuotaName, QUOTA_DEFAULTS } from "./domains.ts";
import { XenstoreError } from "./errors.ts";

type Command = (connection: StoreConnection, args: readonly string[]) => string;

const COMMANDS: Readonly<Record<string, Command>> = {
  check: (_, args) => {
    if (args.length > 0) throw wrong("check takes no argument");
    return "OK\0";
  },
  help: (_, args) => {
    if (args.length > 0) throw wrong("help takes no argument");
    return `These commands are supported:\n\t${Object.keys(COMMANDS).join("\n\t")}\n\0`;
  },
  memreport: ({ store }) =>
    `nodes ${store.ledger.nodes}\nbytes ${store.ledger.bytes}\n` +
    `connections ${store.connectionCount()}\n\0`,
  print: (_, args) => {
    if (args.length !== 1) throw wrong("print takes one text");
    return "OK\0";
  },
  quota: ({ store: { domains } }, args) => {
    const [command, name = "", value = ""] = args;
    if (command === undefined) {
      const names = Object.keys(QUOTA_DEFAULTS).filter(isQuotaName);
      return `${names.map((each) => `${each}: ${domains.globalQuota(each)}\n`).join("")}\0`;
    }
    if (
      command === "set" && args.length === 3 && isQuotaName(name) && /^[1-9]\d{0,8}$/.test(value)
    ) {
      domains.setGlobalQuota(name, Number(value));
      return "OK\0";
    }
    const domid = Number(command);
    if (args.length !== 1 || !/^\d{1,5}$/.test(command)) throw wrong("no such quota");
    const domain = domains.introduced(domid);
    return `Domain ${domid}:\nwatches: ${domain.watches}\n\0`;
  },
};

function wrong(reason: string): XenstoreError {
  return new XenstoreError("EINVAL", `Cannot run a control command: ${reason}`);
}

/** Runs a command of CONTROL and gives its reply. Throws EINVAL for one that there is not. */
export function controlCommand(connection: StoreConnection, words: readonly string[]): string {
  const [name = "", ...args] = words;
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command === undefined) throw wrong("there is no such command");
  return command(connection, args);
}
