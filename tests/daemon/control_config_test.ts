/** What a configuration says of the control plane: sockets, users, hooks, state, filters. @module */
import assert from "node:assert/strict";
import { UsageError } from "../../lib/block/usage_error.ts";
import {
  type ConfigParts,
  finishConfig,
  parseConfig,
  parseFilter,
} from "../../lib/daemon/config.ts";
import type { ControlConfig } from "../../lib/daemon/control_config.ts";

function parse(text: string): ConfigParts {
  return parseConfig(text, { path: "dmu.toml", kinds: ["memory"] });
}

const NO_USERS: ReadonlyMap<number, number> = new Map();

function control(rest: Partial<ControlConfig> = {}): ControlConfig {
  return { sockets: [], xenbus: [], users: NO_USERS, ifFree: false, ...rest };
}

Deno.test("parseConfig() reads control, state, hooks and filters; nothing to serve is fine then", async () => {
  const page = await Deno.readTextFile(new URL("../../docs/control-plane.md", import.meta.url));
  const [example = ""] = [...page.matchAll(/^```toml\n([^]*?)^```/gm)].map((found) =>
    found[1] ?? ""
  );
  const config = finishConfig(parse(example));
  assert.deepEqual(config.control, {
    sockets: [{ kind: "unix", path: "/run/dmu/control.sock", mode: 0o600 }],
    xenbus: [],
    users: new Map([[1000, 5]]),
    ifFree: false,
  });
  assert.equal(config.stateDir, "/var/lib/dmu");
  assert.equal(config.logDir, "/var/lib/dmu/logs");
  assert.deepEqual(config.hooks, new Map([["page", ["/usr/local/bin/page-operator", "disk"]]]));
  assert.deepEqual([config.targets, config.endpoints, config.defaultTarget], [[], [], null]);

  const rest = finishConfig(parse(
    'nbd = ["unix:/a"]\n[control]\nxenbus = ["/run/xenbus"]\n[[target]]\nname = "d"\n' +
      'spec = "memory:1M"\nfilters = ["one", "two:?size=3"]\n',
  ));
  assert.deepEqual(rest.control, control({ xenbus: ["/run/xenbus"] }));
  assert.deepEqual(rest.targets[0]?.filters?.map(({ kind, text }) => [kind, text]), [
    ["one", "one:"],
    ["two", "two:?size=3"],
  ]);
  assert.deepEqual([...rest.hooks], []);
  assert.equal(rest.logDir, null);
  assert.equal(finishConfig({ logDir: "/tmp/x" }).logDir, "/tmp/x");
});

Deno.test("parseConfig() says where a control table is wrong", () => {
  const rows: readonly (readonly [string, RegExp])[] = [
    [
      '[control]\nlisten = ["tcp:1"]',
      /^dmu.toml:2:12: Cannot be steered on "tcp:1": write unix:PATH/,
    ],
    ['[control]\nlisten = ["/a"]', /^dmu.toml:2:12: Cannot listen on "\/a": write unix:\/a/],
    ["[control]\nlissten = []", /^dmu.toml:2:1: .*did you mean "listen"/],
    ["[control.users]\nroot = 1", /^dmu.toml:2:1: .*"root" is no user id/],
    ["[control.users]\n4294967295 = 1", /"4294967295" is no user id/],
    ["[control.users]\n7 = 32752", /^dmu.toml:2:5: .*user 7 needs the number of a domain/],
    ['[control.users]\n7 = "x"', /user 7 needs the number of a domain/],
    ["[hook.a]\ncommand = []", /Cannot read \[hook.a\]: it needs command = /],
    ['[hook.a]\ncommand = ["relative"]', /Cannot read \[hook.a\]: it needs command = /],
    ['[hook.a]\ncommand = ["/a"]\nmore = 1', /and nothing else/],
    ['[hook."a b"]\ncommand = ["/a"]', /a name is made of/],
    ['[[target]]\nname = "d"\nspec = "memory:1M"\nfilters = [":x"]', /^dmu.toml:4:13: /],
  ];
  for (const [text, message] of rows) {
    assert.throws(() => parse(text), (error) => {
      assert.ok(error instanceof UsageError);
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("finishConfig() bounds sockets and filters", () => {
  const socket = { kind: "unix", path: "/a", mode: 0o600 } as const;
  const many = Array.from({ length: 17 }, (_, index) => ({ ...socket, path: `/${index}` }));
  const filters = Array.from({ length: 17 }, () => parseFilter("delay"));
  const targets = parse('[[target]]\nname = "d"\nspec = "memory:1M"').targets ?? [];
  const rows: readonly (readonly [ConfigParts, RegExp])[] = [
    [{ control: control({ sockets: [socket, socket] }) }, /"unix:\/a": it is given twice/],
    [{ control: control({ sockets: many }) }, /more than 16 control sockets/],
    [
      { stateDir: "/s", targets: targets.map((each) => ({ ...each, filters })) },
      /more than 16 filters/,
    ],
  ];
  for (const [parts, message] of rows) assert.throws(() => finishConfig(parts), message);
});
