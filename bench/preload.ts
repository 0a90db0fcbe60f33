/**
 * Programs with libmallocd.so of clients/preload beside the same without it: sort in memory, with all of its data
 * here, and with half; the start of a program that has no large block. It takes what `make
 * test-clients` installs, and userfaultfd; without says so.
 *
 *     deno run -P=bench bench/preload.ts [--smoke]
 */

import { HOST, medians, startMallocd } from "./prober.ts";
import { printTable, ratio } from "./table.ts";

const FOLDER = new URL("../clients/preload/", import.meta.url).pathname;
const RUN = `${FOLDER}build/mallocd-run`;
const LINE = 28;
/** What its block has beside the data: it is not touched from the beginning of a chunk to the end of one. */
const ROUNDED = 1024 ** 2;
/** Bytes that sort touches for a line beside the line: a struct of 32, and half as much to merge them. */
const OVERHEAD = 48;

interface Row {
  readonly name: string;
  readonly words: readonly string[];
  readonly options: readonly string[];
}

async function run(words: readonly string[]): Promise<void> {
  const [program = "", ...args] = words;
  const { success, stderr } = await new Deno.Command(program, {
    args,
    stdout: "null",
    env: { LC_ALL: "C" },
  }).output();
  if (!success) throw new Error(`${words.join(" ")}: ${new TextDecoder().decode(stderr)}`);
}

/** Why it cannot be measured here; empty if it can. */
async function findLack(server: string): Promise<string> {
  try {
    await run(["make", "-s", "-C", FOLDER]);
    await run([RUN, "--server", server, "true"]);
  } catch (error) {
    return (error as Error).message.split("\n")[0]!;
  }
  return "";
}

/** Lines of random digits, the same in every run. */
function writeLines(file: string, count: number): void {
  let state = 1;
  const next = () => state = Math.imul(state, 1664525) + 1013904223 >>> 0;
  let text = "";
  for (let i = 0; i < count; i++) {
    text += `${next()} ${next()}`.padEnd(LINE - 1).slice(0, LINE - 1) + "\n";
  }
  Deno.writeTextFileSync(file, text);
}

async function main(rounds: number, lines: number): Promise<void> {
  const rows = [["", "plain, s", "at mallocd, s", "times"]];
  await using daemon = await startMallocd("auto", "--memory", "1GiB");
  const server = `${HOST}:${daemon.port}`;
  const lack = await findLack(server);
  if (lack !== "") return printTable([...rows, [`skipped: ${lack}`, "", "", ""]]);
  const folder = await Deno.makeTempDir({ prefix: "mallocd-bench-" });
  try {
    const file = `${folder}/lines`;
    writeLines(file, lines);
    const data = lines * (LINE + OVERHEAD);
    const words = ["sort", "-S", `${2 * data}b`, "--parallel=1", file];
    const measured: Row[] = [
      { name: "sort, all of its data here", words, options: ["--local", `${data + ROUNDED}`] },
      { name: "sort, half of it", words, options: ["--local", `${data >> 1}`] },
      { name: "true", words: ["true"], options: [] },
    ];
    const seconds = (line: readonly string[]) => async () => {
      const start = performance.now();
      await run(line);
      return (performance.now() - start) / 1000;
    };
    const results = await medians(
      rounds,
      measured.flatMap(({ words, options }) => [
        seconds(words),
        seconds([RUN, "--server", server, ...options, ...words]),
      ]),
    );
    for (const [i, { name }] of measured.entries()) {
      const [plain, ours] = [results[2 * i]!, results[2 * i + 1]!];
      rows.push([name, plain.toFixed(3), ours.toFixed(3), ratio(ours / plain)]);
    }
    printTable(rows);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  await (Deno.args.includes("--smoke") ? main(1, 150_000) : main(3, 1_800_000));
}
