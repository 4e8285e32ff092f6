/**
 * A small program that tests compile in place of the command line: it tells what reached it, proves
 * that a worker starts from a bundle, and ends with the exit code that it is asked for.
 *
 * @module
 */

const WORKER = "dmu:probe";

async function answerOfWorker(): Promise<unknown> {
  const worker = new Worker(import.meta.url, { type: "module", name: WORKER });
  const { promise, resolve } = Promise.withResolvers<unknown>();
  worker.onmessage = ({ data }): void => resolve(data);
  const answer = await promise;
  worker.terminate();
  return answer;
}

function print(value: unknown): void {
  Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(value) + "\n"));
}

if (self.name === WORKER) {
  self.postMessage("started");
} else {
  print({
    args: Deno.args,
    env: Deno.env.toObject(),
    folder: Deno.cwd(),
    pid: Deno.pid,
    worker: await answerOfWorker(),
    umask: Deno.umask(),
  });
  Deno.exit(Number(Deno.args[0] ?? 0));
}
