/** mallocd-client stat: what the daemon counts and measures; with --every as rates. */

import { UsageError } from "../../cli/flags.ts";
import { didYouMean } from "../../cli/nearest.ts";
import { type Context, define, print, type Repeating, rounded, sleep } from "../command.ts";
import type { Stat } from "../remote.ts";
import { type Sample, Sampler } from "../samples.ts";

/** What fits into 80 columns. */
const COLUMNS = [
  "requests",
  "received",
  "sent",
  "refused",
  "kernelDrops",
  "blocks",
  "bytes",
];
const NARROWEST = 9;

/** After so many lines the names are printed again. */
const LINES = 20;

const DEFAULT_EVERY_MS = 1000;

export const stat = define({
  words: "[NAME...]",
  help: "print the daemon's statistics; with -i as rates",
  details:
    "A name is that of a figure, as requests.read, or of a family, as requests. Without names all " +
    "are printed that are not 0, or with --json all. With -i or -r a line is printed for each TIME, 1s " +
    "unless given, until Ctrl-C or N times: what was counted in it, a second, and of what is no " +
    "count, how much there is; a family is summed up. docs/operations.md explains the names.",
  example: "mallocd-client stat blocks requests",
  repeats: true,
  prepare: (names) => async (context, values) => {
    const { repeat, every } = values as Repeating;
    const sampler = new Sampler(context.remote);
    const sample = await sampler.next();
    for (const name of names) mustHave(sample, name);
    if (repeat === undefined && every === undefined) printAll(context, sample, names);
    else {
      await printRates(context, sampler, names.length > 0 ? names : COLUMNS, {
        times: repeat ?? Infinity,
        interval: every ?? DEFAULT_EVERY_MS,
      });
    }
    return true;
  },
});

function mustHave(sample: Sample, name: string): void {
  if (sample.namesOf(name).length > 0) return;
  const names = [...sample.stats.keys()];
  const all = new Set([...names, ...names.map((name) => name.split(".")[0]!)]);
  throw new UsageError(
    `stat: the daemon has no figure ${JSON.stringify(name)}${didYouMean(name, [...all])}`,
    "mallocd-client --json stat shows all",
  );
}

function printAll(context: Context, sample: Sample, names: readonly string[]): void {
  const { stats } = sample;
  const chosen = names.length > 0
    ? names.flatMap((name) => sample.namesOf(name))
    : [...stats.keys()];
  const shown = chosen.map((name) => [name, format(name, stats.get(name)!)] as const);
  const lines = shown
    .filter(([name]) => names.length > 0 || stats.get(name)!.value !== 0n)
    .map(([name, text]) => `${name} ${text}\n`);
  print(context, lines.join(""), Object.fromEntries(shown));
}

/** An epoch is no quantity: it is shown as info does. */
function format(name: string, { value }: Stat): string | number {
  return name === "epoch" ? `0x${value.toString(16).padStart(16, "0")}` : Number(value);
}

async function printRates(
  context: Context,
  sampler: Sampler,
  names: readonly string[],
  { times, interval }: { times: number; interval: number },
): Promise<void> {
  const { terminal } = context;
  const { signal } = terminal;
  for (let line = 0; line < times; line++) {
    await sleep(interval, signal);
    if (signal.aborted) return;
    const sample = await sampler.next();
    const columns = names.map((name) => sample.figure(name));
    const row = (texts: readonly string[]) =>
      texts.map((text, i) => text.padStart(Math.max(columns[i]!.title.length, NARROWEST)))
        .join(" ") + "\n";
    const title = line % LINES === 0 ? row(columns.map(({ title }) => title)) : "";
    print(
      context,
      title + row(columns.map(({ value }) => `${value}`)),
      Object.fromEntries([
        ["seconds", rounded(sample.seconds)],
        ...columns.map(({ title, value }): [string, number] => [title, value]),
      ]),
    );
  }
}
