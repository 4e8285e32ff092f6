/**
 * The two that are compared: our backend behind a Device, in this process, and QEMU's tools. Both take
 * the same operations, each on an image of its own.
 *
 * @module
 */
import assert from "node:assert/strict";
import { defaultRegistry } from "../../backends/mod.ts";
import type { OpenContext } from "../../lib/block/context.ts";
import { Device } from "../../lib/block/device.ts";
import type { ImageContext, JsonValue } from "../../lib/block/image.ts";
import { parseOptions } from "../../lib/block/options.ts";
import type { AnyBackendType, PreparedImage } from "../../lib/block/registry.ts";
import { FLAG_MAY_TRIM, makeRequest } from "../../lib/block/request.ts";
import { encodeSpecText, parseSpec, withDefaultOption } from "../../lib/block/spec.ts";
import type { Opened } from "../../lib/block/types.ts";
import { systemFiles } from "../../lib/sys/file.ts";
import { testClock } from "../../lib/testing/mod.ts";
import { MemoryLog, testContext } from "../support/context.ts";
import { qemuImg, qemuIo } from "../support/qemu_image.ts";
import { type Operation, operationText } from "./operations.ts";

/** One of the two. */
export interface Side {
  /** The image. */
  readonly path: string;
  /** Does one operation; what can be batched may be done later. */
  apply(operation: Operation): Promise<void>;
  /** Does all that was put off and closes the image, so that others can look at it. */
  close(): Promise<void>;
}

/** What qemu-img calls the format of a kind. */
export type Format = "raw" | "qcow2";

const registry = defaultRegistry();

/** A context for images on this machine. */
export function imageContext(different: Partial<OpenContext> = {}): ImageContext {
  return {
    ...testContext({ files: systemFiles, clock: testClock, log: new MemoryLog(), ...different }),
    progress: () => {},
  };
}

/** The kind that keeps images of a format. */
export function kindOf(format: Format): AnyBackendType {
  const type = registry.backends.find(({ image }) => image?.format === format);
  assert.ok(type !== undefined, `there is no kind for ${format} images`);
  return type;
}

/** The image at `path`, and the tools for it. */
export function imageAt(path: string, format: Format): PreparedImage {
  const text = `${kindOf(format).name}:${encodeSpecText(path)}`;
  return registry.prepareImage(parseSpec(text, registry));
}

/** Makes an image with our tools; names of options are qemu-img's. */
export async function createImage(
  path: string,
  format: Format,
  size: number | null,
  options: Readonly<Record<string, JsonValue>> = {},
  context: ImageContext = imageContext(),
): Promise<void> {
  const { disk, tools } = imageAt(path, format);
  const values = new Map(
    Object.entries(options).map(([name, value]) => [name.replaceAll("_", "-"), value]),
  );
  const parsed = parseOptions(tools.createOptions, values, { action: "create an image" });
  await tools.create(disk, { size, replace: false }, parsed, context);
}

/** An image opened by us. */
export interface OurImage extends AsyncDisposable {
  readonly device: Device;
  readonly opened: Opened;
}

/** Opens an image with our backend. */
export async function openImage(
  path: string,
  format: Format,
  different: Partial<OpenContext> = {},
  options: Readonly<Record<string, JsonValue>> = {},
): Promise<OurImage> {
  const context = imageContext(different);
  let spec = parseSpec(`${kindOf(format).name}:${encodeSpecText(path)}`, registry);
  for (const [name, value] of Object.entries(options)) spec = withDefaultOption(spec, name, value);
  const { opened } = await registry.open(spec, context);
  const { clock, log } = context;
  const device = new Device(opened.backend, { name: path, clock, log });
  return { device, opened, [Symbol.asyncDispose]: () => device[Symbol.asyncDispose]() };
}

/** Bytes of one piece when a whole disk is read. */
const READ_BYTES = 2 ** 20;

/** Reads all of a disk. */
export async function readAll(device: Device): Promise<Uint8Array> {
  const content = new Uint8Array(device.geometry.size);
  for (let at = 0; at < content.length; at += READ_BYTES) {
    const data = content.subarray(at, at + READ_BYTES);
    await device.submit(makeRequest("read", at, data.length, { data }));
  }
  return content;
}

/** Does one operation on a disk that is open. */
export async function applyTo({ device, opened }: OurImage, operation: Operation): Promise<void> {
  const { management = {} } = opened;
  switch (operation.kind) {
    case "write": {
      const { offset, length, byte } = operation;
      const data = new Uint8Array(length).fill(byte);
      await device.submit(makeRequest("write", offset, length, { data }));
      break;
    }
    case "zero": {
      const { offset, length, unmap } = operation;
      const flags = unmap ? FLAG_MAY_TRIM : 0;
      await device.submit(makeRequest("zero", offset, length, { flags }));
      break;
    }
    case "discard":
      await device.submit(makeRequest("trim", operation.offset, operation.length));
      break;
    case "flush":
      await device.submit(makeRequest("flush"));
      break;
    case "commit":
      assert.ok(management.commit !== undefined);
      await management.commit(() => {});
      break;
    case "resize":
      await opened.backend.resize?.(operation.size);
      break;
    case "snapshot":
      assert.ok(management.createSnapshot !== undefined);
      await management.createSnapshot(operation.name);
      break;
    case "apply":
      assert.ok(management.applySnapshot !== undefined);
      await management.applySnapshot(operation.name);
      break;
    case "delete":
      assert.ok(management.deleteSnapshot !== undefined);
      await management.deleteSnapshot(operation.name);
      break;
    default:
      assert.fail(`${operation.kind} is not for a disk that is open`);
  }
}

/** Our backend, in this process. */
export class OurSide implements Side {
  readonly path: string;
  readonly #format: Format;
  #image: OurImage | null = null;

  constructor(path: string, format: Format) {
    this.path = path;
    this.#format = format;
  }

  async open(): Promise<OurImage> {
    this.#image ??= await openImage(this.path, this.#format);
    return this.#image;
  }

  async apply(operation: Operation): Promise<void> {
    if (operation.kind === "reopen") return await this.close();
    if (operation.kind === "resize") {
      await this.close();
      const { disk, tools } = imageAt(this.path, this.#format);
      const how = { shrink: true, preallocation: "off" } as const;
      assert.ok(tools.resize !== undefined);
      return await tools.resize(disk, operation.size, how, imageContext());
    }
    await applyTo(await this.open(), operation);
  }

  async close(): Promise<void> {
    const image = this.#image;
    this.#image = null;
    await image?.[Symbol.asyncDispose]();
  }
}

/** qemu-io and qemu-img. Input and output is put off and done by one process. */
export class QemuSide implements Side {
  readonly path: string;
  readonly #format: Format;
  #commands: string[] = [];

  constructor(path: string, format: Format) {
    this.path = path;
    this.#format = format;
  }

  async apply(operation: Operation): Promise<void> {
    switch (operation.kind) {
      case "reopen":
        return await this.close();
      case "resize":
        await this.close();
        await qemuImg(
          "resize",
          "-q",
          "--shrink",
          "-f",
          this.#format,
          this.path,
          `${operation.size}`,
        );
        return;
      case "commit":
        await this.close();
        await qemuImg("commit", "-q", "-f", this.#format, this.path);
        return;
      case "snapshot":
      case "apply":
      case "delete": {
        await this.close();
        const flag = { snapshot: "-c", apply: "-a", delete: "-d" }[operation.kind];
        await qemuImg("snapshot", "-q", flag, operation.name, this.path);
        return;
      }
      default:
        this.#commands.push(operationText(operation));
    }
  }

  async close(): Promise<void> {
    const commands = this.#commands;
    this.#commands = [];
    await qemuIo(this.path, commands, this.#format);
  }
}
