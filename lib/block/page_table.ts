/**
 * A page table as an MMU has it: from the page number of a sparse address space to an entry, in a
 * radix tree that exists only where entries are. An entry is a number, 0 for none. Costs nothing for
 * what is empty, however large it is, and finds the next page in use without visiting the gap.
 *
 * @module
 */

const LEAF_SHIFT = 10;
const BRANCH_SHIFT = 10;
const BRANCH_SLOTS: number = 1 << BRANCH_SHIFT;
const BRANCH_MASK: number = BRANCH_SLOTS - 1;

/** Entries of one leaf. */
export const LEAF_PAGES: number = 1 << LEAF_SHIFT;
/** Leaf numbers end here: 2^28 leaves are 2^38 pages. */
export const LEAVES_MAX: number = 2 ** 28;

/** The entries of LEAF_PAGES pages in a row. */
export interface Leaf {
  /** Its place: it holds the pages from `number * LEAF_PAGES`. */
  readonly number: number;
  /** One entry a page, 0 for none. */
  readonly entries: Uint32Array;
  /** Entries that are not 0; whoever changes entries keeps it right. */
  used: number;
}

interface Branch<T> {
  readonly slots: (T | undefined)[];
  used: number;
}

function makeBranch<T>(): Branch<T> {
  return { slots: new Array<T | undefined>(BRANCH_SLOTS).fill(undefined), used: 0 };
}

function childOf<T>(branch: Branch<T>, slot: number, make: () => T): T {
  const found = branch.slots[slot];
  if (found !== undefined) return found;
  const made = make();
  branch.slots[slot] = made;
  branch.used += 1;
  return made;
}

function removeFrom<T>(branch: Branch<T>, slot: number): void {
  branch.slots[slot] = undefined;
  branch.used -= 1;
}

/** The first number past the subtree of 2^bits that holds `number`, or the last one before it. */
function pastSubtree(number: number, bits: number, step: 1 | -1): number {
  const start = (number >>> bits) * 2 ** bits;
  return step === 1 ? start + 2 ** bits : start - 1;
}

/** Leaves by number, 0 to LEAVES_MAX - 1. */
export class PageTable {
  #root: Branch<Branch<Branch<Leaf>>> = makeBranch();

  /** The leaf of a number, if there is one. */
  find(number: number): Leaf | undefined {
    return this.#root.slots[number >>> (2 * BRANCH_SHIFT)]
      ?.slots[(number >>> BRANCH_SHIFT) & BRANCH_MASK]
      ?.slots[number & BRANCH_MASK];
  }

  /** The leaf of a number, made if there is none. */
  make(number: number): Leaf {
    const upper = childOf<Branch<Branch<Leaf>>>(
      this.#root,
      number >>> (2 * BRANCH_SHIFT),
      makeBranch,
    );
    const lower = childOf<Branch<Leaf>>(upper, (number >>> BRANCH_SHIFT) & BRANCH_MASK, makeBranch);
    return childOf(lower, number & BRANCH_MASK, () => ({
      number,
      entries: new Uint32Array(LEAF_PAGES),
      used: 0,
    }));
  }

  /** Forgets a leaf, which has to exist, and the branches that thereby become empty. */
  remove(number: number): void {
    const upperSlot = number >>> (2 * BRANCH_SHIFT);
    const lowerSlot = (number >>> BRANCH_SHIFT) & BRANCH_MASK;
    const upper = this.#root.slots[upperSlot];
    const lower = upper?.slots[lowerSlot];
    if (upper === undefined || lower?.slots[number & BRANCH_MASK] === undefined) {
      throw new Error(`Cannot remove leaf ${number}: there is none`);
    }
    removeFrom(lower, number & BRANCH_MASK);
    if (lower.used === 0) removeFrom(upper, lowerSlot);
    if (upper.used === 0) removeFrom(this.#root, upperSlot);
  }

  /** The nearest leaf at or after a number (step 1), or at or before it (step -1). */
  seek(number: number, step: 1 | -1): Leaf | undefined {
    let at = number;
    while (at >= 0 && at < LEAVES_MAX) {
      const upper = this.#root.slots[at >>> (2 * BRANCH_SHIFT)];
      if (upper === undefined) {
        at = pastSubtree(at, 2 * BRANCH_SHIFT, step);
        continue;
      }
      const lower = upper.slots[(at >>> BRANCH_SHIFT) & BRANCH_MASK];
      if (lower === undefined) {
        at = pastSubtree(at, BRANCH_SHIFT, step);
        continue;
      }
      const leaf = lower.slots[at & BRANCH_MASK];
      if (leaf !== undefined) return leaf;
      at += step;
    }
    return undefined;
  }

  /** Forgets everything. */
  clear(): void {
    this.#root = makeBranch();
  }
}
