/** mallocd as a function: a command line in, a daemon's life, an exit code out. */

import { DAEMON, DAEMON_FLAGS } from "./flags.ts";
import { live } from "./life.ts";
import { type Log, openLog } from "./log.ts";
import { settingsOf } from "./settings.ts";
import { StartError } from "./start_error.ts";
import { isOn, parseCommandLine, strayVariables, UsageError, variableOf } from "../cli/flags.ts";
import { checkWords, commandOf } from "../cli/command.ts";
import { commandHelp, programHelp } from "../cli/help.ts";
import { VERSION } from "../cli/version.ts";

const VERSION_LINE = `mallocd ${VERSION}\n`;

/** Runs the daemon until a signal ends it, and returns the exit code. */
export function program(args: readonly string[]): Promise<number> {
  return main(args).catch(report);
}

async function main(args: readonly string[]): Promise<number> {
  const environment = Deno.env.toObject();
  if (wantsObjects(args, environment)) objects = openLog({ json: true, quiet: false });
  for (const warning of strayVariables(DAEMON, Object.keys(environment))) {
    if (objects !== undefined) objects({ msg: "warning", level: "warn", reason: warning });
    else console.error(`mallocd: ${warning}`);
  }
  const { values, words, given } = parseCommandLine(
    DAEMON,
    DAEMON_FLAGS,
    args,
    (name) => environment[name],
  );
  const [word, ...rest] = words;
  if (values.help || values.version) {
    print(values.help ? helpOf(word) : VERSION_LINE);
    return 0;
  }
  if (word !== undefined) return await command(word, rest, given);
  return await live(values, settingsOf(values, given), environment) ? 0 : 1;
}

/** Does what is no serving, and returns the exit code. */
async function command(
  name: string,
  words: readonly string[],
  given: readonly string[],
): Promise<number> {
  const usage = `mallocd ${name} ${commandOf(DAEMON, name).words}`.trim();
  const [flag] = given;
  if (flag !== undefined) throw new UsageError(`--${flag} means nothing to ${name}`, usage);
  checkWords(DAEMON, name, words);
  const [first] = words;
  if (name === "audit") return (await import("./keeper.ts")).audit(first!);
  print(name === "help" ? helpOf(first) : VERSION_LINE);
  return 0;
}

function helpOf(name: string | undefined): string {
  return name === undefined
    ? programHelp(DAEMON)
    : commandHelp(DAEMON, name, commandOf(DAEMON, name));
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text));
}

/** The log, if it is to be objects. */
let objects: Log | undefined;

/** Looked for before anything else, so that a mistake in the rest of the options is an object, too. */
function wantsObjects(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): boolean {
  const flag = "log-json" satisfies keyof typeof DAEMON_FLAGS;
  return args.includes(`--${flag}`) || isOn(environment[variableOf(flag)]);
}

/** What goes wrong is said in one line on stderr, and what to do about it in another; or in an object. */
function report(error: unknown): number {
  const reason = error instanceof Error ? error.message : String(error);
  const hint = error instanceof UsageError || error instanceof StartError ? error.hint : undefined;
  if (objects !== undefined) objects({ msg: "failed", level: "error", reason, try: hint });
  else {
    console.error(`mallocd: ${reason}`);
    if (hint !== undefined) console.error(`Try: ${hint}`);
  }
  return error instanceof UsageError ? 2 : 1;
}
