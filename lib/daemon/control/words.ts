/**
 * Words as a shell parts them: blanks between, quotes and backslashes as in sh(1), nothing expanded.
 *
 * @module
 */

/** The words of a text, null if a quote or an escape does not end. */
export function splitWords(text: string): string[] | null {
  const words: string[] = [];
  let word: string | null = null;
  let quote = "";
  for (let at = 0; at < text.length; at += 1) {
    const char = text.charAt(at);
    if (quote !== "" && char === quote) quote = "";
    else if (quote === "" && (char === "'" || char === '"')) {
      quote = char;
      word ??= "";
    } else if (char === "\\" && quote !== "'") {
      at += 1;
      if (at >= text.length) return null;
      const next = text.charAt(at);
      // Between double quotes a backslash stands for itself, but before these.
      const plain = quote === "" || next === '"' || next === "\\";
      word = (word ?? "") + (plain ? next : char + next);
    } else if (quote === "" && /\s/.test(char)) {
      if (word !== null) words.push(word);
      word = null;
    } else word = (word ?? "") + char;
  }
  if (quote !== "") return null;
  if (word !== null) words.push(word);
  return words;
}
