/**
 * What a client can do, as requests and replies: the same outside of transactions and inside of one.
 *
 * @module
 */
import { ProtocolError } from "../stream/frame.ts";
import { OPERATION } from "./constants.ts";
import { XenstoreError } from "./errors.ts";
import { allStrings, bytesOf, textOf } from "./message.ts";
import { quoted } from "./path.ts";
import { formatPermission, parsePermission, type Permissions } from "./permissions.ts";

/** Operations, in a transaction or outside of any. All reject with XenstoreError. */
export interface XenstoreOperations {
  /** The value of a node. */
  read(path: string): Promise<Uint8Array>;
  /** The value of a node as UTF-8 text. */
  readText(path: string): Promise<string>;
  /** Sets a value; text goes as UTF-8. */
  write(path: string, value: Uint8Array | string): Promise<void>;
  /** Makes sure that a node is there. */
  mkdir(path: string): Promise<void>;
  /** Removes a node with all below it. */
  remove(path: string): Promise<void>;
  /** The names of the children, however many. */
  directory(path: string): Promise<string[]>;
  /** False for a node that is not there. */
  exists(path: string): Promise<boolean>;
  /** The permissions. */
  getPermissions(path: string): Promise<Permissions>;
  /** Sets the permissions. */
  setPermissions(path: string, permissions: Permissions): Promise<void>;
}

/** The operations as requests. */
export abstract class Operations implements XenstoreOperations {
  /** Sends a request and gives the payload of its reply. */
  protected abstract ask(type: number, payload: Uint8Array | string): Promise<Uint8Array>;

  /** The value of a node. */
  read(path: string): Promise<Uint8Array> {
    return this.ask(OPERATION.READ, `${path}\0`);
  }

  /** The value of a node as UTF-8 text. */
  async readText(path: string): Promise<string> {
    return new TextDecoder().decode(await this.read(path));
  }

  /** Sets a value; text goes as UTF-8. */
  async write(path: string, value: Uint8Array | string): Promise<void> {
    const bytes = typeof value === "string" ? new TextEncoder().encode(value) : value;
    const head = bytesOf(`${path}\0`);
    const payload = new Uint8Array(head.length + bytes.length);
    payload.set(head);
    payload.set(bytes, head.length);
    await this.ask(OPERATION.WRITE, payload);
  }

  /** Makes sure that a node is there. */
  async mkdir(path: string): Promise<void> {
    await this.ask(OPERATION.MKDIR, `${path}\0`);
  }

  /** Removes a node with all below it. */
  async remove(path: string): Promise<void> {
    await this.ask(OPERATION.RM, `${path}\0`);
  }

  /** The names of the children, however many. */
  async directory(path: string): Promise<string[]> {
    try {
      return allStrings(await this.ask(OPERATION.DIRECTORY, `${path}\0`));
    } catch (error) {
      if (!(error instanceof XenstoreError) || error.code !== "E2BIG") throw error;
      return await this.#directoryInParts(path);
    }
  }

  /** False for a node that is not there. */
  async exists(path: string): Promise<boolean> {
    try {
      await this.read(path);
      return true;
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "ENOENT") return false;
      throw error;
    }
  }

  /** The permissions. */
  async getPermissions(path: string): Promise<Permissions> {
    const texts = allStrings(await this.ask(OPERATION.GET_PERMS, `${path}\0`));
    return texts.map((text) => {
      const permission = parsePermission(text);
      if (permission !== null) return permission;
      throw new ProtocolError(`Cannot understand permission ${quoted(text)}`);
    });
  }

  /** Sets the permissions. */
  async setPermissions(path: string, permissions: Permissions): Promise<void> {
    const texts = permissions.map((each) => `${formatPermission(each)}\0`);
    await this.ask(OPERATION.SET_PERMS, `${path}\0${texts.join("")}`);
  }

  async #directoryInParts(path: string): Promise<string[]> {
    for (;;) {
      let generation: string | null = null;
      let list = "";
      for (;;) {
        const reply = textOf(
          await this.ask(OPERATION.DIRECTORY_PART, `${path}\0${list.length}\0`),
        );
        const end = reply.indexOf("\0");
        const now = reply.slice(0, end);
        if (generation !== null && generation !== now) break; // It changed: from the start.
        generation = now;
        const part = reply.slice(end + 1);
        const last = part.endsWith("\0\0") || part === "\0";
        list += last ? part.slice(0, -1) : part;
        if (last) return list.split("\0").slice(0, -1);
      }
    }
  }
}
