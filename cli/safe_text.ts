/**
 * Text that is safe where it goes: in a terminal, in a command that is printed to be pasted.
 *
 * @module
 */

/** Quotes a word for a POSIX shell, if it needs it. */
export function shellQuote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A text with control characters replaced, so that it cannot move the cursor or change colours. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069]/gu, "\ufffd");
}
