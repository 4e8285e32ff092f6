/**
 * Becoming the writer of a volume. Whoever wants to write creates an object of a higher epoch, a claim, in
 * the first gap of the log. The writer before acknowledges in the order of the log alone, and the slot in the gap is
 * no longer his: he acknowledges nothing behind it, however long he was held up and whenever he wakes.
 * What he has created in the slots behind is void: the claim says that the log goes on behind the last
 * slot that he could reach (`windowSlots`).
 *
 * A gap may also be the name of an object that was deleted. So after a claim the checkpoints are looked at again: while
 * the newest is the one that the attach began with, nothing behind it was deleted, and the gap was the
 * log's end. If there is a newer one, the claim counts for nothing (whoever loads that checkpoint never sees it) and
 * all begins again.
 *
 * Claims are never deleted, for a writer who sleeps must find the one that keeps him out. A claim right
 * behind the last object of a writer who has ended keeps nobody out, and says so.
 *
 * @module
 */
import { BlockError } from "../block/errors.ts";
import type { DiskContext } from "./context.ts";
import { createOwn } from "./create_own.ts";
import type { WriterHooks } from "./hooks.ts";
import { ATTACH_TRIES_MAX } from "./limits.ts";
import { isUndisturbed, type Loaded, loadVolume, noteVoid, replay, type Volume } from "./load.ts";
import { encodeLogHeader, type LogHeader } from "./log_object.ts";
import { applyObject, type LogState } from "./log_state.ts";
import { listLog } from "./scan.ts";

function claimFor(state: LogState, { description }: Volume, nonce: string): LogHeader {
  return {
    volume: description.id,
    nonce,
    seq: state.next,
    epoch: state.epoch + 1,
    next: state.next + description.windowSlots,
    diskBytes: state.diskBytes,
    dataBytes: 0,
    claim: true,
    detach: false,
    afterDetach: state.detached,
    extents: [],
  };
}

/** Claims the first gap behind what was loaded; follows the log while others are faster. */
async function claimLoaded(
  volume: Volume,
  { state, checkpoints, sizes: listed }: Loaded,
  nonce: string,
  context: DiskContext,
  hooks: WriterHooks | null,
): Promise<boolean> {
  const { description, origins: [own] } = volume, { signal } = context;
  if (own === undefined) throw new RangeError("A volume has no store");
  const { store } = own;
  let sizes = listed;
  for (let round = 0; round < ATTACH_TRIES_MAX; round += 1) {
    const claim = claimFor(state, volume, nonce);
    const body = [encodeLogHeader(claim)], { epoch } = claim;
    await hooks?.beforeClaim(description.id, state, { epoch, nonce });
    const outcome = await createOwn(store, { seq: claim.seq, nonce, body }, context);
    const isUsed = await isUndisturbed(store, checkpoints, signal);
    if (!isUsed) return false;
    if (outcome === "ours") {
      applyObject(state, claim, description, store);
      noteVoid(state, sizes);
      return true;
    }
    sizes = await listLog(store, state.next, signal);
    try {
      await replay(state, description, store, sizes, signal);
    } catch (error) {
      // A name may have been deleted, and claimed by somebody in vain, since it was listed.
      if (!await isUndisturbed(store, checkpoints, signal)) return false;
      throw error;
    }
  }
  return false;
}

/**
 * Loads a volume and becomes its writer. Nobody who was its writer before acknowledges anything from
 * now on that is not in the state that is given. Throws as `loadVolume` does, and EAGAIN.
 */
export async function claimVolume(
  volume: Volume,
  nonce: string,
  context: DiskContext,
  hooks: WriterHooks | null = null,
): Promise<Loaded> {
  for (let round = 0; round < ATTACH_TRIES_MAX; round += 1) {
    const loaded = await loadVolume(volume, context);
    if (await claimLoaded(volume, loaded, nonce, context, hooks)) return loaded;
  }
  const name = volume.origins[0]?.store.name ?? "";
  throw new BlockError("EAGAIN", `Cannot write to ${name}: others claim it all the time`);
}
