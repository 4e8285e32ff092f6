/**
 * Stands in for a daemon on a control socket: a real XenStore service, and a script for what the daemon
 * would do. What happens to a target goes by its backend:
 *
 *     memory:SIZE    it is opened, and resized up to RESIZE_BYTES_MAX
 *     fail:TEXT      it is not opened: TEXT is its error
 *     vanish:        it is removed instead of opened
 *     stuck:         it stays in state 2
 *     unflushed:     as memory:, but it closes with an error
 *
 * @module
 */
import { parseSize } from "../../lib/block/size.ts";
import { parseSpec } from "../../lib/block/spec.ts";
import {
  type ServicePeer,
  startXenstoreService,
  type XenstoreClient,
  type XenstoreService,
} from "../../lib/xenstore/mod.ts";

/** A target cannot be made larger than this. */
export const RESIZE_BYTES_MAX = 2 ** 30;

/** What a request is answered with; an Error becomes an answer that is not ok. */
export type Answer = Readonly<Record<string, unknown>> | Error;

/** What a stand-in is to do beyond its script. */
export interface StandInOptions {
  /** Answers a verb that the stand-in does not know, or knows otherwise. */
  readonly answer?: (
    request: Readonly<Record<string, unknown>>,
    peer: ServicePeer,
  ) => Answer | null;
}

/** A daemon that is none. */
export class StandIn implements AsyncDisposable {
  /** Requests that were answered, `self` and `info` left out. */
  readonly requests: Readonly<Record<string, unknown>>[] = [];
  /** Numbers of connections that have ended. */
  readonly ended: number[] = [];
  readonly #path: string;
  readonly #answer: NonNullable<StandInOptions["answer"]>;
  readonly #peers = new Map<number, ServicePeer>();
  #service: XenstoreService | null = null;
  #watching: Promise<void> = Promise.resolve();

  private constructor(path: string, options: StandInOptions) {
    this.#path = path;
    this.#answer = options.answer ?? (() => null);
  }

  /** Starts one on a socket. */
  static async start(path: string, options: StandInOptions = {}): Promise<StandIn> {
    const standIn = new StandIn(path, options);
    await standIn.#start();
    return standIn;
  }

  /** The value of --control. */
  get control(): string {
    return `unix:${this.#path}`;
  }

  /** The stand-in's own client. */
  get store(): XenstoreClient {
    if (this.#service === null) throw new Error("it was not started");
    return this.#service.client;
  }

  /** The tree below a path, as one line for each node. */
  async dump(path: string): Promise<string[]> {
    const lines = [`${path} = ${await this.store.readText(path)}`];
    for (const name of (await this.store.directory(path)).sort()) {
      lines.push(...await this.dump(`${path}/${name}`));
    }
    return lines;
  }

  /** Writes several nodes below a path. */
  async put(path: string, nodes: Readonly<Record<string, string | number>>): Promise<void> {
    await this.store.transaction(async (store) => {
      for (const [key, value] of Object.entries(nodes)) {
        await store.write(`${path}/${key}`, String(value));
      }
    });
  }

  /** Ends it with all connections. */
  async close(): Promise<void> {
    await this.#service?.close();
    await this.#watching;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #start(): Promise<void> {
    this.#service = await startXenstoreService({
      sockets: [{ path: this.#path, mode: 0o600 }],
      xenbus: [],
      domains: new Map(),
      opened: (peer) => void this.#peers.set(peer.id, peer),
      closed: (id) => {
        this.#peers.delete(id);
        this.ended.push(id);
      },
      control: (id, [text = ""]) => Promise.resolve(this.#control(id, text)),
      onFailure: (reason) => {
        throw new Error(reason);
      },
    });
    for (const path of ["/dmu/target", "/dmu/file"]) await this.store.mkdir(path);
    this.#watching = this.#watch();
  }

  #control(id: number, text: string): string {
    const request: Readonly<Record<string, unknown>> = JSON.parse(text);
    const peer = this.#peers.get(id);
    if (peer === undefined) throw new Error("nobody asked");
    const answer = this.#answer(request, peer) ?? standard(request, peer);
    if (request["verb"] !== "self" && request["verb"] !== "info") this.requests.push(request);
    if (!(answer instanceof Error)) return JSON.stringify({ ok: true, ...answer });
    const errno = "errno" in answer ? answer.errno : "EIO";
    return JSON.stringify({ ok: false, errno, message: answer.message });
  }

  async #watch(): Promise<void> {
    try {
      for await (const { path } of await this.store.watch("/dmu/target")) {
        const [, , , node, key] = path.split("/");
        if (node !== undefined && key === "state") await this.#state(`/dmu/target/${node}`);
        if (node !== undefined && key === "size") await this.#size(`/dmu/target/${node}`);
      }
    } catch {
      // It was closed.
    }
  }

  async #text(path: string): Promise<string | null> {
    return await this.store.exists(path) ? await this.store.readText(path) : null;
  }

  async #state(path: string): Promise<void> {
    const backend = await this.#text(`${path}/backend`) ?? "";
    const { kind, argument } = parseSpec(backend === "" ? "none:" : backend);
    const state = await this.#text(`${path}/state`);
    if (state === "1" && kind === "vanish") return await this.store.remove(path);
    if (state === "1" && kind === "fail") {
      return await this.put(path, { error: argument, state: 6 });
    }
    if (state === "1" && kind === "stuck") return await this.put(path, { state: 2 });
    if (state === "1") return await this.#open(path, argument);
    if (state === "5" && kind === "unflushed") {
      return await this.put(path, { error: "Cannot flush it: input/output error", state: 6 });
    }
    if (state === "5") return await this.put(path, { state: 6 });
  }

  async #open(path: string, argument: string): Promise<void> {
    const wanted = await this.#text(`${path}/size`);
    const parsed = parseSize(argument);
    const size = Number(wanted ?? (typeof parsed === "number" ? parsed : 0));
    this.#sizes.set(path, size);
    const uri = `nbd+unix:///${path.slice("/dmu/target/".length)}?socket=/s`;
    await this.put(path, { size, "uris/0": uri, "read-only": "0", state: 4 });
  }

  readonly #sizes = new Map<string, number>();

  async #size(path: string): Promise<void> {
    const wanted = Number(await this.#text(`${path}/size`));
    const size = this.#sizes.get(path);
    if (size === undefined || wanted === size) return;
    if (wanted > RESIZE_BYTES_MAX) {
      await this.put(path, { error: "Cannot resize it: no space left on device" });
      return await this.put(path, { size });
    }
    this.#sizes.set(path, wanted);
    await this.put(path, { size: wanted });
  }
}

function standard({ verb }: Readonly<Record<string, unknown>>, peer: ServicePeer): Answer {
  switch (verb) {
    case "self":
      return { minor: peer.id };
    case "info":
      return { pid: Deno.pid, version: "0", control: [], nbd: [], hooks: ["backup"] };
    case "revoke":
      return { files: 2, drained: true };
    case "onexit-add":
      return { handle: 7 };
    case "admit":
    case "onexit-remove":
      return {};
    default:
      return new Error(`there is no verb ${String(verb)}`);
  }
}
