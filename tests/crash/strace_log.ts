/**
 * Reads what `strace -f -y -xx` prints: system calls with the place in the log at which each began and
 * ended, calls of several threads that overlap included.
 *
 * @module
 */

/** One system call. */
export interface Call {
  readonly name: string;
  /** What stands between the brackets. */
  readonly args: string;
  /** What it returned, as it is printed. */
  readonly result: string;
  /** Line at which it began. */
  readonly begin: number;
  /** Line at which it returned. */
  readonly end: number;
}

const WHOLE = /^(\d+) +(\w+)\((.*)\) += (.*)$/;
const UNFINISHED = /^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$/;
const RESUMED = /^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (.*)$/;

/** The finished calls of a log, in the order in which they returned. */
export function parseStrace(text: string): Call[] {
  const calls: Call[] = [];
  const open = new Map<string, { readonly args: string; readonly begin: number }>();
  for (const [line, each] of text.split("\n").entries()) {
    const unfinished = UNFINISHED.exec(each);
    const resumed = RESUMED.exec(each);
    const whole = WHOLE.exec(each);
    if (unfinished !== null) {
      const [, thread, name, args = ""] = unfinished;
      open.set(`${thread} ${name}`, { args, begin: line });
    } else if (resumed !== null) {
      const [, thread, name = "", rest = "", result = ""] = resumed;
      const { args, begin } = open.get(`${thread} ${name}`) ?? { args: "", begin: line };
      calls.push({ name, args: args + rest, result, begin, end: line });
    } else if (whole !== null) {
      const [, , name = "", args = "", result = ""] = whole;
      calls.push({ name, args, result, begin: line, end: line });
    }
  }
  return calls;
}

/** Bytes as `-xx` prints them. */
export function escaped(hex: string): string {
  return hex.replace(/../g, (pair) => `\\x${pair}`);
}
