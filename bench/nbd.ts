/**
 * The disk of clients/nbdkit beside nbdkit's own memory plugin, each behind a Unix socket: copies by
 * nbdcopy, and 16 requests at a time, at places far apart, by qemu-img. The first round, in which pages are
 * touched, does not count. It takes what `make test-clients` installs; without it says so.
 *
 * Beside the ratio of the rates there is that of the processor time that client, nbdkit and daemon took
 * together, which other programs on the machine change less.
 *
 *     deno run -P=bench bench/nbd.ts [--smoke]
 */

import { childrenTime, HOST, medians, processorTime, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const FOLDER = new URL("../clients/nbdkit/", import.meta.url).pathname;
const MIB = 1024 ** 2;
const AT_A_TIME = 16;
/** Of each nbdkit, for each connection: with more than these, most of them wait for the others. */
const THREADS = "4";

/** Client, nbdkit and daemon are more than there may be processors: docs/operations.md advises it then. */
const SLEEPY = ["--spin", "0"];

interface Load {
  readonly name: string;
  readonly unit: string;
  /** What one run moves, in that unit. */
  readonly amount: number;
  readonly command: (uri: string) => readonly string[];
}

function loadsOf(file: string, mib: number, requests: number): Load[] {
  const load = (name: string, length: number, count: number, ...flags: string[]): Load => {
    // A step of some MiB and one request more: no two of those under way are close to each other.
    const step = 5 * MIB + length;
    const sizes = ["-c", `${count}`, "-d", `${AT_A_TIME}`, "-s", `${length}`, "-S", `${step}`];
    const command = (uri: string) => ["qemu-img", "bench", ...flags, "-f", "raw", ...sizes, uri];
    return { name, unit: "requests", amount: count, command };
  };
  return [
    { name: "copy in", unit: "MiB", amount: mib, command: (uri) => ["nbdcopy", file, uri] },
    { name: "copy out", unit: "MiB", amount: mib, command: (uri) => ["nbdcopy", uri, "null:"] },
    load("read 4 KiB", 4096, requests),
    load("write 4 KiB", 4096, requests, "-w"),
    load("read 64 KiB", 65536, requests / 4),
    load("write 64 KiB", 65536, requests / 4, "-w"),
  ];
}

async function run(command: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(command, { args, stdout: "null" }).output();
  if (!success) {
    throw new Error(`${command} ${args.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  }
}

/** Why it cannot be measured here; empty if it can. */
async function findLack(): Promise<string> {
  for (const program of ["make", "cc", "nbdkit", "nbdinfo", "nbdcopy", "qemu-img"]) {
    try {
      await run(program, "--version");
    } catch {
      return `no ${program}`;
    }
  }
  try {
    await run("make", "-s", "-C", FOLDER);
  } catch (error) {
    return (error as Error).message.split("\n").find((line) => line.includes("error"))!;
  }
  return "";
}

/** An nbdkit, and the address of what it serves. */
async function serve(folder: string, plugin: string, ...args: string[]) {
  const socket = `${folder}/${plugin.replace(/.*\//, "")}.socket`;
  const child = new Deno.Command("nbdkit", {
    args: ["-f", "--exit-with-parent", "-t", THREADS, "-U", socket, plugin, ...args],
    stderr: "null",
  }).spawn();
  const uri = `nbd+unix:///?socket=${socket}`;
  const isUp = () => run("nbdinfo", "--size", uri).then(() => true, () => false);
  while (!await isUp()) await new Promise((resolve) => setTimeout(resolve, 50));
  return {
    uri,
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.status;
    },
  };
}

async function main(rounds: number, mib: number, requests: number): Promise<void> {
  const rows = [["a second", "mallocd", "memory plugin", "ratio", "by processor time"]];
  const lack = await findLack();
  if (lack !== "") return printTable([...rows, [`skipped: ${lack}`, "", "", "", ""]]);
  const folder = await Deno.makeTempDir({ prefix: "mallocd-bench-" });
  try {
    const file = `${folder}/data`;
    await Deno.writeFile(file, new Uint8Array(mib * MIB).fill(1));
    await using daemon = await startMallocd("auto", "--memory", "1GiB", ...SLEEPY);
    const plugin = `${FOLDER}build/nbdkit-mallocd-plugin.so`;
    await using ours = await serve(folder, plugin, `server=${HOST}:${daemon.port}`, `size=${mib}M`);
    await using memory = await serve(folder, "memory", `size=${mib}M`);
    const loads = loadsOf(file, mib, requests);
    const servers = [{ uri: ours.uri, pids: [ours.pid, daemon.pid] }, {
      uri: memory.uri,
      pids: [memory.pid],
    }];
    const processor = async (pids: number[]) =>
      pids.map(processorTime).reduce((sum, time) => sum + time, await childrenTime());
    const spent: number[] = [];
    const results = await medians(
      rounds,
      loads.flatMap(({ amount, command }) =>
        servers.map(({ uri, pids }) => async () => {
          const [program, ...args] = command(uri);
          const before = await processor(pids);
          const start = performance.now();
          await run(program!, ...args);
          const rate = amount / (performance.now() - start) * 1000;
          spent.push(await processor(pids) - before);
          return rate;
        })
      ),
    );
    const columns = 2 * loads.length;
    const total = (column: number) =>
      spent.filter((_, i) => i >= columns && i % columns === column).reduce((a, b) => a + b);
    for (const [i, { name, unit }] of loads.entries()) {
      const [one, other] = [results[2 * i]!, results[2 * i + 1]!];
      const cells = [one, other].map((rate) => `${grouped(Math.round(rate))} ${unit}`);
      const byProcessor = ratio(total(2 * i + 1) / total(2 * i));
      rows.push([name, ...cells, ratio(one / other), byProcessor]);
    }
    printTable(rows);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  await (Deno.args.includes("--smoke") ? main(1, 8, 400) : main(7, 256, 20_000));
}
