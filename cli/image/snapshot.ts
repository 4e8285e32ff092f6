/**
 * `dmu image snapshot`: states of a disk that its image keeps.
 *
 * @module
 */
import type { Management } from "../../lib/block/types.ts";
import { type AnyCommand, collect, command, examples } from "../command.ts";
import type { CliIo } from "../io.ts";
import { plural, printJson } from "../output.ts";
import { printable } from "../safe_text.ts";
import { BACKEND_HELP, registryWith } from "../setup.ts";
import {
  cannot,
  FILE_HELP,
  findImage,
  FORCE_HELP,
  KIND_HELP,
  refuseInUse,
  withImageContext,
  withManagement,
} from "./find.ts";
import { snapshotTable } from "./info.ts";
import { snapshotsJson } from "./json.ts";

function listCommand(io: CliIo): AnyCommand {
  return command("ls", io)
    .summary("list the snapshots of an image")
    .description("List the snapshots of an image, oldest first.")
    .argument("<file>", FILE_HELP)
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--json", "print JSON, a list as in dmu image info")
    .option("--verbose", "show debug messages, and stacks of errors")
    .action(async (file, { kind, backend, json }) => {
      const registry = await registryWith(backend);
      const info = await withImageContext(io, "look", true, (context) => {
        const image = findImage(registry, file, kind, context);
        return image.tools.info(image.disk, context);
      });
      const { snapshots = [] } = info;
      if (json) return printJson(io, snapshotsJson(info));
      if (snapshots.length === 0) {
        io.out(`${printable(info.filename)} has ${plural(0, "snapshot")}\n`);
      } else io.out(snapshotTable(snapshots, ""));
    });
}

interface Verb {
  readonly name: string;
  readonly summary: string;
  readonly description: string;
  /** What was done, for the line that is printed. */
  readonly done: string;
  readonly of: (management: Management) => ((name: string) => unknown) | undefined;
}

const VERBS: readonly Verb[] = [
  {
    name: "create",
    summary: "keep the state of now under a name",
    description: "Keep the state of now under a name.",
    done: "kept",
    of: (management) => management.createSnapshot?.bind(management),
  },
  {
    name: "apply",
    summary: "go back to a snapshot",
    description: "Put the content back to that of a snapshot; what was written since is lost.",
    done: "went back to",
    of: (management) => management.applySnapshot?.bind(management),
  },
  {
    name: "delete",
    summary: "forget a snapshot",
    description: "Forget a snapshot; the disk itself stays as it is.",
    done: "forgot",
    of: (management) => management.deleteSnapshot?.bind(management),
  },
];

function verbCommand(io: CliIo, verb: Verb): AnyCommand {
  return command(verb.name, io)
    .summary(verb.summary)
    .description(verb.description)
    .argument("<file>", FILE_HELP)
    .argument("<name>", "name of the snapshot (or its id, but for create)")
    .option("--force", FORCE_HELP)
    .option("--kind <kind>", KIND_HELP)
    .option("--backend <file>", BACKEND_HELP, collect)
    .option("--verbose", "show debug messages, and stacks of errors")
    .action(async (file, name, { force = false, kind, backend }) => {
      const registry = await registryWith(backend);
      await withImageContext(io, "snapshot", false, async (context) => {
        const image = findImage(registry, file, kind, context);
        await refuseInUse(`${verb.name} a snapshot of`, image, force, context);
        await withManagement(io, registry, image, context.signal, async (management) => {
          const call = verb.of(management);
          if (call === undefined) throw cannot(`${verb.name} a snapshot of`, image);
          await call(name);
        });
      });
      io.out(`${verb.done} ${printable(name)}\n`);
    });
}

/** The command `dmu image snapshot` with its verbs. */
export function imageSnapshotCommand(io: CliIo): AnyCommand {
  const group = command("snapshot", io)
    .summary("list, create, apply or delete snapshots")
    .description("States of a disk that its image keeps. No virtual machine may have it open.")
    .usage("COMMAND …")
    .helpCommand("help [command]", "show the help of a command")
    .addHelpText(
      "after",
      examples([
        ["Before an upgrade", "dmu image snapshot create vm.qcow2 before-upgrade"],
        ["Back to it", "dmu image snapshot apply vm.qcow2 before-upgrade"],
      ]),
    );
  group.addCommand(listCommand(io));
  for (const verb of VERBS) group.addCommand(verbCommand(io, verb));
  return group;
}
