/**
 * `deno task compile [--output PATH] [--main PATH] [--fast]`: makes one file that runs where no Deno is.
 * With DENORT_BIN set that is `deno compile`; else a self-extracting file: tools/self_extract.sh,
 * then the bundled program and this Deno binary, both gzipped. Runs on the kind of machine that
 * made it. `--fast` compresses less, `--main` takes another program (both for tests).
 *
 * @module
 */
import { parseArgs, promisify } from "node:util";
import { createHash } from "node:crypto";
import { dirname, join } from "node:path";
import { gzip } from "node:zlib";
import { fileURLToPath } from "node:url";
import { print, runDeno, taskArguments } from "./process.ts";

const ROOT = fileURLToPath(new URL("../", import.meta.url));
const ELF_MAGIC = "\x7fELF";

interface Part {
  /** SHA-256 of the content, in hexadecimal. */
  readonly hash: string;
  readonly compressed: Uint8Array<ArrayBuffer>;
}

function fail(message: string): never {
  print(`${message}\n`);
  Deno.exit(1);
}

async function partOf(content: Uint8Array, level: number): Promise<Part> {
  return {
    hash: createHash("sha256").update(content).digest("hex"),
    compressed: new Uint8Array(await promisify(gzip)(content, { level })),
  };
}

/** All modules of the program in one file. `deno bundle` fetches its bundler once. */
async function bundle(main: string): Promise<Uint8Array> {
  const folder = await Deno.makeTempDir();
  try {
    const path = join(folder, "dmu.js");
    const args = ["bundle", "--quiet", "--platform", "deno", "--output", path, main];
    const { code } = await runDeno(args);
    if (code !== 0) fail(`Cannot bundle ${main}`);
    return await Deno.readFile(path);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function script(template: string, version: string, program: Part, runtime: Part): Uint8Array {
  const values = (programStart: number): Record<string, string | number> => ({
    VERSION: version,
    MARK: `${program.hash.slice(0, 16)}-${runtime.hash.slice(0, 16)}`,
    PROGRAM_HASH: program.hash,
    PROGRAM_START: programStart,
    PROGRAM_LENGTH: program.compressed.length,
    RUNTIME_HASH: runtime.hash,
    RUNTIME_START: programStart + program.compressed.length,
    RUNTIME_LENGTH: runtime.compressed.length,
  });
  const filled = (programStart: number): Uint8Array => {
    const known = values(programStart);
    const text = template.replace(/@([A-Z_]+)@/g, (_, name: string) => {
      const value = known[name] ?? fail(`Unknown @${name}@ in the script`);
      return String(value);
    });
    return new TextEncoder().encode(text);
  };
  // The script's length depends on the number of digits of its own length: try until it fits.
  for (let length = filled(0).length;; length++) {
    const bytes = filled(length + 1); // tail counts from 1
    if (bytes.length === length) return bytes;
    if (bytes.length > length + 20) fail("Cannot fit the script's length into the script");
  }
}

async function versionOf(path: string): Promise<string> {
  const manifest: unknown = JSON.parse(await Deno.readTextFile(path));
  if (typeof manifest !== "object" || manifest === null || !("version" in manifest)) {
    fail(`${path} has no version`);
  }
  return String(manifest.version);
}

async function selfExtracting(main: string, output: string, level: number): Promise<void> {
  const runtime = await Deno.readFile(Deno.execPath());
  if (new TextDecoder("latin1").decode(runtime.subarray(0, 4)) !== ELF_MAGIC) {
    fail(`Cannot pack ${Deno.execPath()}: it is no Linux program`);
  }
  const parts = await Promise.all([
    bundle(main).then((it) => partOf(it, level)),
    partOf(runtime, level),
  ]);
  const template = await Deno.readTextFile(join(ROOT, "tools/self_extract.sh"));
  const start = script(template, await versionOf(join(ROOT, "deno.json")), ...parts);
  const temporary = `${output}.new`;
  await Deno.writeFile(
    temporary,
    new Blob([new Uint8Array(start), ...parts.map(({ compressed }) => compressed)]).stream(),
    { mode: 0o755 },
  );
  await Deno.chmod(temporary, 0o755);
  await Deno.rename(temporary, output);
}

async function withDenort(main: string, output: string): Promise<void> {
  const { code } = await runDeno(["compile", "--allow-all", "--output", output, main]);
  if (code !== 0) fail(`Cannot compile ${main} with DENORT_BIN=${Deno.env.get("DENORT_BIN")}`);
}

const { values: options } = parseArgs({
  args: taskArguments(),
  options: {
    output: { type: "string", default: join(ROOT, "dist/dmu") },
    main: { type: "string", default: join(ROOT, "cli/main.ts") },
    fast: { type: "boolean", default: false },
  },
});
await Deno.mkdir(dirname(options.output), { recursive: true });
if ((Deno.env.get("DENORT_BIN") ?? "") !== "") await withDenort(options.main, options.output);
else await selfExtracting(options.main, options.output, options.fast ? 1 : 9);
const { size } = await Deno.stat(options.output);
print(`${options.output}: ${(size / 1e6).toFixed(1)} MB\n`);
