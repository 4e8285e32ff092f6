/**
 * What clients ask of the daemon itself, as JSON in a CONTROL request: verbs that concern open files, and
 * access to targets. docs/control-plane.md lists them.
 *
 * @module
 */
import * as v from "valibot";
import { BlockError, toBlockError } from "../../block/errors.ts";
import type { Management } from "../../block/types.ts";
import { UsageError } from "../../block/usage_error.ts";
import type { BitmapCommand } from "../../dirty_log/target_bitmaps.ts";
import { DRAIN_MS_MAX } from "../../handle/limits.ts";
import type { OpenFile } from "../../handle/open_file.ts";
import type { OpenFileTable } from "../../handle/table.ts";
import { type ActionSurroundings, addAction } from "./actions.ts";
import type { Targets } from "../targets.ts";
import { REPLY_BYTES_MAX } from "./limits.ts";

/** What a daemon tells of itself. */
export interface DaemonFacts {
  readonly pid: number;
  readonly version: string;
  /** Endpoints of the control plane. */
  readonly control: readonly string[];
  /** Endpoints of NBD that lead to all targets. */
  readonly nbd: readonly string[];
  /** Where metrics are served, null if nowhere. */
  readonly metrics: string | null;
  /** Where targets outlive the daemon, null if nowhere. */
  readonly stateDir: string | null;
  /** Names of hooks. */
  readonly hooks: readonly string[];
  /** The target of clients that name none. */
  readonly defaultTarget: string | null;
}

/** What commands need. */
export interface CommandSurroundings extends ActionSurroundings {
  readonly files: OpenFileTable;
  readonly facts: () => DaemonFacts;
  /** Resolves when the tree shows open files as they are. */
  readonly filesShown: () => Promise<void>;
}

type Reply = Readonly<Record<string, unknown>>;

const minor = v.pipe(v.number(), v.integer(), v.minValue(0));
const handle = minor;
const leg = v.pipe(v.number(), v.integer(), v.minValue(1));
const drain = v.optional(v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(DRAIN_MS_MAX)));

const bitmap = { verb: v.literal("bitmap"), target: v.string() };

const requestSchema = v.variant("verb", [
  v.strictObject({ verb: v.literal("self") }),
  v.strictObject({ verb: v.literal("info") }),
  v.strictObject({
    verb: v.literal("revoke"),
    minor: v.optional(minor),
    target: v.optional(v.string()),
    drain_ms: drain,
    keepOpen: v.optional(v.boolean()),
  }),
  v.strictObject({ verb: v.literal("admit"), target: v.string() }),
  v.strictObject({ verb: v.literal("onexit-add"), minor, action: v.string() }),
  v.strictObject({
    verb: v.literal("onexit-remove"),
    minor,
    handle,
    fire: v.optional(v.boolean()),
  }),
  v.variant("action", [
    v.strictObject({ ...bitmap, action: v.literal("list") }),
    v.strictObject({
      ...bitmap,
      action: v.literal("add"),
      name: v.string(),
      granularity: v.optional(v.pipe(v.number(), v.integer())),
      persistent: v.optional(v.boolean()),
      marked: v.optional(v.boolean()),
    }),
    v.strictObject({
      ...bitmap,
      action: v.picklist(["clear", "freeze", "drop", "merge", "remove"]),
      name: v.string(),
    }),
  ]),
  v.strictObject({ verb: v.literal("mirror-show"), target: v.string() }),
  v.strictObject({
    verb: v.literal("mirror-add"),
    target: v.string(),
    leg,
    full: v.optional(v.boolean()),
  }),
  v.strictObject({ verb: v.literal("mirror-drop"), target: v.string(), leg }),
]);

type Request = v.InferOutput<typeof requestSchema>;
/** Verbs that change nothing. */
const LOOKS: readonly Request["verb"][] = ["self", "info", "mirror-show"];
type Revoke = Extract<Request, { verb: "revoke" }>;

/**
 * Answers one request of the connection that `own` stands for, null for the daemon's own. Never
 * rejects: what fails is part of the reply.
 */
export async function answerCommand(
  words: readonly string[],
  own: OpenFile | null,
  surroundings: CommandSurroundings,
): Promise<string> {
  let reply: Reply;
  try {
    const request = parse(words);
    reply = { ok: true, ...await run(request, own, surroundings) };
    // Whoever has changed something finds it in the tree.
    if (!LOOKS.includes(request.verb)) await surroundings.filesShown();
  } catch (error) {
    reply = failure(error);
  }
  const text = JSON.stringify(reply);
  if (new TextEncoder().encode(text).length <= REPLY_BYTES_MAX) return text;
  return JSON.stringify(failure(new BlockError("E2BIG", "Cannot answer: the reply is too long")));
}

function parse(words: readonly string[]): Request {
  const [text = "", ...more] = words;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw malformed("it is no JSON text");
  }
  if (more.length > 0) throw malformed("there is more than one word");
  const result = v.safeParse(requestSchema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  const where = v.getDotPath(issue);
  throw malformed(where === null ? issue.message : `${where}: ${issue.message}`);
}

function malformed(reason: string): BlockError {
  return new BlockError("EINVAL", `Cannot understand the command: ${reason}`);
}

function failure(error: unknown): Reply {
  if (error instanceof UsageError) return { ok: false, errno: "EINVAL", message: error.message };
  const { errno, message } = toBlockError(error);
  return { ok: false, errno, message };
}

async function run(
  request: Request,
  own: OpenFile | null,
  surroundings: CommandSurroundings,
): Promise<Reply> {
  const { files, facts, targets } = surroundings;
  switch (request.verb) {
    case "self":
      if (own === null) throw new BlockError("EBADF", "Cannot tell: this is no open file");
      return { minor: own.minor };
    case "info":
      return { ...facts() };
    case "revoke":
      return await revoke(request, own, surroundings);
    case "admit":
      await targets.admit(request.target);
      return {};
    case "onexit-add":
      return { handle: addAction(files.get(request.minor), request.action, surroundings) };
    case "onexit-remove":
      await files.get(request.minor).onexit.remove(request.handle, { fire: request.fire ?? false });
      return {};
    case "bitmap":
      return { bitmaps: await targets.bitmap(request.target, bitmapCommandOf(request)) };
    case "mirror-show":
      return { ...mirrorOf(request.target, targets).mirror?.() };
    case "mirror-add":
      await mirrorOf(request.target, targets, true).addLeg?.(request.leg, request.full ?? false);
      return {};
    case "mirror-drop":
      await mirrorOf(request.target, targets, true).dropLeg?.(request.leg);
      return {};
  }
}

function bitmapCommandOf(request: Extract<Request, { verb: "bitmap" }>): BitmapCommand {
  if (request.action !== "add") return request;
  const { name, granularity, persistent = false, marked = false } = request;
  const told = granularity === undefined ? {} : { granularity };
  return { action: "add", name, ...told, persistent, marked };
}

/** The verbs of a target that is a mirror. Throws ENOENT, EOPNOTSUPP for any other, EROFS if it is read-only. */
function mirrorOf(target: string, targets: Targets, changes = false): Management {
  const { management, device } = targets.opened(target);
  if (management?.mirror === undefined) {
    throw new BlockError("EOPNOTSUPP", `Cannot look at the legs of ${target}: it is no mirror`);
  }
  if (changes && device.geometry.readOnly) {
    throw new BlockError("EROFS", `Cannot change the legs of ${target}: it is read-only`);
  }
  return management;
}

async function revoke(
  request: Revoke,
  own: OpenFile | null,
  { files, targets }: CommandSurroundings,
): Promise<Reply> {
  const { minor, target, drain_ms, keepOpen = false } = request;
  if ((minor === undefined) === (target === undefined)) {
    throw malformed("it takes a minor or a target");
  }
  if (minor !== undefined && request.keepOpen !== undefined) {
    throw malformed("keepOpen is for targets");
  }
  const revoked = target !== undefined
    ? await targets.revoke(target, { keepOpen })
    : [files.get(minor ?? 0)];
  // A file that has ended already is on its way out, and is waited for as well.
  for (const file of revoked) file.revoke();
  if (drain_ms !== undefined) {
    // Whoever asks is inside its own file.
    await Promise.all(
      revoked.map((file) =>
        file === own ? file.drainSelf({ limit_ms: drain_ms }) : file.drain({ limit_ms: drain_ms })
      ),
    );
  }
  const inside = (file: OpenFile): boolean => file.active > (file === own ? 1 : 0);
  return { files: revoked.length, drained: !revoked.some(inside) };
}
