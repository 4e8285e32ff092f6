/**
 * Tables of targets of type `user`: what is read, what is refused.
 *
 * @module
 */
import assert from "node:assert/strict";
import { formatTableLine, parseTable, type TableLine } from "../../lib/dm_user/table.ts";

const READ: readonly (readonly [why: string, text: string, TableLine[]])[] = [
  ["one target", "0 2048 user 0 2048 disk", [{ start: 0, sectors: 2048, name: "disk" }]],
  [
    "the first two arguments are not parsed",
    "0 2048 user what ever disk",
    [{ start: 0, sectors: 2048, name: "disk" }],
  ],
  [
    "a name may hold a slash",
    "0 1 user 0 1 a/b",
    [{ start: 0, sectors: 1, name: "a/b" }],
  ],
  [
    "blanks, comments and empty lines",
    "# two targets\n\n 0\t8  user 0 8 one \n8 4 user 0 4 two\n",
    [{ start: 0, sectors: 8, name: "one" }, { start: 8, sectors: 4, name: "two" }],
  ],
  [
    "a backslash takes the next character as it is",
    "0 8 user 0 8 my\\ disk\\\\",
    [{ start: 0, sectors: 8, name: "my disk\\" }],
  ],
];

for (const [why, text, lines] of READ) {
  Deno.test(`parseTable() reads: ${why}`, () => assert.deepEqual(parseTable(text), lines));
}

const REFUSED: readonly (readonly [text: string, reason: RegExp])[] = [
  ["0 2048 user 0 2048", /Invalid argument count$/],
  ["0 2048 user 0 2048 disk more", /Invalid argument count$/],
  ["0 2048 user", /Invalid argument count$/],
  ["0 2048 linear 0 2048 disk", /target type "linear" is not "user"$/],
  ["0 2048", /target type "" is not "user"$/],
  ["", /it has no target$/],
  ["# nothing", /it has no target$/],
  ["1 8 user 1 8 disk", /sector 0 has to come next, not 1$/],
  ["0 8 user 0 8 a\n9 8 user 9 8 b", /sector 8 has to come next, not 9$/],
  ["0 0 user 0 0 disk", /at least one sector$/],
  ["0 x user 0 x disk", /its length "x" is no count of sectors$/],
  ["-1 8 user 0 8 disk", /its start "-1" is no count of sectors$/],
  ["0 99999999999999999999 user 0 8 disk", /no count of sectors$/],
];

Deno.test('parseTable() refuses with EINVAL: any other count of arguments, "Invalid argument count"', () => {
  for (const [text, message] of REFUSED) {
    assert.throws(() => parseTable(text), { name: "BlockError", errno: "EINVAL", message });
  }
});

Deno.test("formatTableLine() writes what parseTable() reads", () => {
  for (const name of ["disk", "a/b", "my disk", "back\\slash", "#hash", "tab\there"]) {
    const line = { start: 0, sectors: 2048, name };
    assert.deepEqual(parseTable(formatTableLine(line)), [line]);
  }
  const line = formatTableLine({ start: 0, sectors: 8, name: "disk" });
  assert.equal(line, "0 8 user 0 8 disk");
});
