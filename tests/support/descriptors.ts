/** What this process has open. Relies on /proc. @module */

/** The descriptors of this process that lead to a path. */
export function descriptorsOf(path: string): number[] {
  return [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => Number(name)).filter((number) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${number}`) === path;
    } catch {
      return false; // the descriptor of the folder that is being read
    }
  });
}

/** The only descriptor of this process that leads to a path. Throws if there are more, or none. */
export function descriptorOf(path: string): number {
  const [descriptor, ...others] = descriptorsOf(path);
  if (descriptor === undefined || others.length > 0) {
    throw new Error(`Cannot tell the descriptor of ${path}: there are ${others.length} others`);
  }
  return descriptor;
}
