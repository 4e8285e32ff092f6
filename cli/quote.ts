/**
 * Quoting for commands that are printed to be pasted.
 *
 * @module
 */

/** Quotes a word for a POSIX shell, if it needs it. */
export function shellQuote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
