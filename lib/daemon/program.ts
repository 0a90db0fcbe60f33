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
export async function program(args: readonly string[]): Promise<number> {
  const environment = Deno.env.toObject();
  const json = wantsObjects(args, environment);
  const say = openLog({ json, quiet: false });
  return await main(args, environment, say).catch((error) =>
    json ? sayFailure(error, say) : tellPerson(error)
  );
}

async function main(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
  say: Log,
): Promise<number> {
  for (const reason of strayVariables(DAEMON, Object.keys(environment))) {
    say({ msg: "warning", level: "warn", reason });
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
  const settings = settingsOf(values, given);
  try {
    return await live(values, settings, environment) ? 0 : 1;
  } catch (error) {
    if (error instanceof UsageError) throw error;
    return sayFailure(error, say); // an event of its life, and no longer of a command line
  }
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

/** Looked for before anything else, so that a mistake in the rest of the options is an object, too. */
function wantsObjects(
  args: readonly string[],
  environment: Readonly<Record<string, string>>,
): boolean {
  const flag = "log-json" satisfies keyof typeof DAEMON_FLAGS;
  return args.includes(`--${flag}`) || isOn(environment[variableOf(flag)]);
}

/** Puts into the log what goes wrong, and returns the exit code. */
function sayFailure(error: unknown, say: Log): number {
  const { reason, hint, code } = failureOf(error);
  say({ msg: "failed", level: "error", reason, try: hint });
  return code;
}

/** Says it in one line, and what to do about it in another. */
function tellPerson(error: unknown): number {
  if (error instanceof Deno.errors.BrokenPipe) return 1; // a reader that has gone wants no word about it
  const { reason, hint, code } = failureOf(error);
  console.error(`mallocd: ${reason}`);
  if (hint !== undefined) console.error(`Try: ${hint}`);
  return code;
}

function failureOf(error: unknown): { reason: string; hint: string | undefined; code: number } {
  const isMisuse = error instanceof UsageError;
  return {
    reason: error instanceof Error ? error.message : String(error),
    hint: isMisuse || error instanceof StartError ? error.hint : undefined,
    code: isMisuse ? 2 : 1,
  };
}
