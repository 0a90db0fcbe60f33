/**
 * Command lines: a table of flags in, values out. The help texts, the manual pages and the completions are
 * made of the same tables, of which each program has its own.
 */

import { parseArgs } from "@std/cli";
import { didYouMean, nearest } from "./nearest.ts";
import { formatSize, parseDuration, parseSize } from "./sizes.ts";

/** Something on the command line cannot be understood; `hint` says what to do instead. Exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
  constructor(message: string, readonly hint: string) {
    super(message);
  }
}

/** One flag. Without a placeholder it is a switch. */
export interface Flag<T> {
  readonly placeholder?: string;
  /** The default as a person would type it, and as the help shows it. */
  readonly default?: string;
  /** The letter that stands for it after a single dash. */
  readonly short?: string;
  /** What it does: a phrase for one line of the help. */
  readonly help: string;
  /** Words that complete the flag, if there are only so many. */
  readonly choices?: readonly string[];
  /** Throws a string, what the value must be, if the text is no such value. */
  readonly parse: (text: string) => T;
}

export type Flags = Readonly<Record<string, Flag<unknown>>>;

/** The values of a table of flags; undefined for a flag that was not given and has no default. */
export type Values<F extends Flags> = {
  readonly [Name in keyof F]: F[Name] extends Flag<infer T> ? T : never;
};

export interface Command {
  /** Its words as the help shows them: `PTR LEN`. */
  readonly words: string;
  readonly help: string;
  /** More than one line has room for, for its own help and the manual. */
  readonly details?: string;
  readonly example: string;
  readonly flags?: Flags;
}

export interface Program {
  readonly name: string;
  readonly summary: string;
  /** What it is, in a few sentences, for the manual page. */
  readonly description: string;
  readonly flags: Flags;
  readonly commands?: Readonly<Record<string, Command>>;
  /** Whether it does something of its own without a command; then no command takes its flags. */
  readonly runsAlone?: boolean;
  readonly examples: readonly string[];
  /** What its end means, by exit code. */
  readonly exitStatus: readonly Row[];
  readonly signals: readonly Row[];
  /** Where its manual page is, and what others there are. */
  readonly section: 1 | 8;
  readonly seeAlso: readonly (readonly [page: string, section: number])[];
}

export type Row = readonly [term: string, text: string];

export const MISUSED: Row = [
  "2",
  "The command line, or a variable, cannot be understood; nothing was done.",
];

export function on(help: string): Flag<boolean> {
  return { help, parse: parseSwitch };
}

export function text(placeholder: string, standard: string, help: string): Flag<string> {
  return { placeholder, default: standard, help, parse: (value) => value };
}

/** One of a few words. */
export function oneOf<Choice extends string>(
  placeholder: string,
  standard: Choice,
  choices: readonly Choice[],
  help: string,
): Flag<Choice> {
  const parse = (value: string) => {
    const choice = choices.find((choice) => choice === value);
    if (choice === undefined) throw `one of ${choices.join(", ")}`;
    return choice;
  };
  return { placeholder, default: standard, choices, help, parse };
}

/** A whole number from `min` to `max`. */
export function count(
  placeholder: string,
  standard: number,
  [min, max]: [min: number, max: number],
  help: string,
): Flag<number> {
  const parse = (value: string) => {
    const number = Number(value);
    if (!/^\d+$/.test(value) || number < min || number > max) {
      throw `a whole number from ${min} to ${max}`;
    }
    return number;
  };
  return { placeholder, default: String(standard), help, parse };
}

/** A size in bytes, from `min` to `max`, in steps of `step`. */
export function size(
  placeholder: string,
  standard: string,
  [min, max, step]: [min: number, max: number, step: number],
  help: string,
): Flag<number> {
  const parse = (value: string) => {
    const bytes = parseSize(value);
    if (bytes === undefined) throw "bytes, or a number with KiB, MiB or GiB";
    if (bytes < min || bytes > max || bytes % step !== 0) {
      const range = `${formatSize(min)} to ${formatSize(max)}`;
      throw step === 1 ? range : `${range}, a multiple of ${step} bytes`;
    }
    return bytes;
  };
  return { placeholder, default: standard, help, parse };
}

/** A duration in milliseconds, from above 0 to `max`. */
export function duration(
  placeholder: string,
  standard: string,
  max: number,
  help: string,
): Flag<number> {
  const parse = (value: string) => {
    const ms = parseDuration(value);
    if (ms === undefined || ms <= 0 || ms > max) {
      throw `a time as 500ms or 2s, ${max / 1000}s at most`;
    }
    return ms;
  };
  return { placeholder, default: standard, help, parse };
}

/** The same flag without a default: its value is undefined if it is not given. */
export function optional<T>({ default: _, ...flag }: Flag<T>): Flag<T | undefined> {
  return flag;
}

/** Whether a variable of a switch says that it is on. */
export function isOn(value = ""): boolean {
  return /^(1|true|yes|on)$/i.test(value);
}

function parseSwitch(value: string): boolean {
  if (isOn(value)) return true;
  if (/^(0|false|no|off)?$/i.test(value)) return false;
  throw "1 or 0";
}

export const HELP_FLAGS = {
  help: { ...on("print this help and exit"), short: "h" },
  version: { ...on("print the version and exit"), short: "V" },
} as const satisfies Flags;

/** The environment variable that stands in for a flag: MALLOCD_REPLAY_CACHE for --replay-cache. */
export function variableOf(flag: string): string {
  return PREFIX + flag.toUpperCase().replaceAll("-", "_");
}

const PREFIX = "MALLOCD_";

/**
 * Splits a command line into flags and other words; after `--` everything is a word, and so is `-1`.
 * `given` names the flags that are on it. A flag beats its variable, which beats its default. Throws UsageError.
 */
export function parseCommandLine<F extends Flags>(
  program: Program,
  flags: F,
  args: readonly string[],
  variable: (name: string) => string | undefined,
): { values: Values<F>; words: string[]; given: string[] } {
  const seeHelp = `${program.name} --help lists the options`;
  const names = Object.keys(flags);
  const switches = names.filter((name) => flags[name]!.placeholder === undefined);
  checkSwitches(switches, args);
  const parsed = parseArgs(args.map(hideNumber), {
    string: ["_", ...names.filter((name) => flags[name]!.placeholder !== undefined)],
    boolean: switches,
    alias: Object.fromEntries(
      names.flatMap((name) => flags[name]!.short ? [[flags[name]!.short, name]] : []),
    ),
    "--": true,
    unknown: (word, flag) => {
      if (flag === undefined) return true;
      const [option = ""] = word.split("=");
      const name = option.slice(2);
      if (option.startsWith("--") && Object.hasOwn(flags, name)) { // nothing follows the =
        throw new UsageError(`${option} needs one value`, `${option} ${flags[name]!.placeholder}`);
      }
      const meant = option.startsWith("--") ? didYouMean(option.slice(2), names, "--") : "";
      throw new UsageError(`unknown option ${option}${meant}`, seeHelp);
    },
  });
  const words = [...parsed._, ...parsed["--"] ?? []].map(showNumber);
  // What a variable says is no concern of a command that does not take the flag.
  const taken = { ...program.flags, ...program.commands?.[words[0] ?? ""]?.flags };
  const values: Record<string, unknown> = {};
  for (const name of names) {
    const flag = flags[name]!;
    const value = parsed[name];
    if (value === "" || Array.isArray(value)) {
      throw new UsageError(`--${name} needs one value`, `--${name} ${flag.placeholder}`);
    }
    const isOpen = (value === undefined || value === false) && !Object.hasOwn(HELP_FLAGS, name);
    const fromVariable = isOpen && Object.hasOwn(taken, name)
      ? variable(variableOf(name))
      : undefined;
    if (value === true) values[name] = true;
    else if (typeof value === "string") values[name] = parseValue(`--${name}`, flag, value);
    else if (fromVariable !== undefined && fromVariable !== "") {
      values[name] = parseValue(variableOf(name), flag, fromVariable);
    } else if (flag.placeholder === undefined) values[name] = false;
    else if (flag.default !== undefined) values[name] = flag.parse(flag.default);
  }
  const given = names.filter((name) => parsed[name] !== undefined && parsed[name] !== false);
  return { values: values as Values<F>, words, given };
}

/** A warning for each variable that looks like a misspelt one of the program's. */
export function strayVariables(program: Program, variables: Iterable<string>): string[] {
  const all = [program.flags, ...Object.values(program.commands ?? {}).map(({ flags }) => flags)];
  const known = all.flatMap((flags = {}) => Object.keys(flags)).map(variableOf);
  const ends = known.map((name) => name.slice(PREFIX.length));
  const warnings: string[] = [];
  for (const name of variables) {
    if (!name.startsWith(PREFIX) || known.includes(name)) continue;
    const meant = nearest(name.slice(PREFIX.length), ends);
    // One that is near to none may be the other program's.
    if (meant === undefined) continue;
    warnings.push(`the variable ${name} means nothing: did you mean ${PREFIX}${meant}?`);
  }
  return warnings;
}

/** The values of flags of which none is given. */
export function defaults<F extends Flags>(flags: F): Values<F> {
  const values: Record<string, unknown> = {};
  for (const [name, { placeholder, default: standard, parse }] of Object.entries(flags)) {
    if (placeholder === undefined) values[name] = false;
    else if (standard !== undefined) values[name] = parse(standard);
  }
  return values as Values<F>;
}

/** To the parser --anyone=0 is --anyone: whoever writes that means something else. */
function checkSwitches(switches: readonly string[], args: readonly string[]): void {
  const end = args.indexOf("--");
  for (const word of end === -1 ? args : args.slice(0, end)) {
    const name = switches.find((name) => word.startsWith(`--${name}=`));
    if (name !== undefined) {
      throw new UsageError(`--${name} takes no value`, `--${name}, or leave it out`);
    }
  }
}

/** To the parser a word like -1 is a flag; the client has numbers below zero. */
const HIDDEN = "\0";
const hideNumber = (word: string) => /^-\d/.test(word) ? HIDDEN + word : word;
const showNumber = (word: string) => word.startsWith(HIDDEN) ? word.slice(1) : word;

function parseValue(name: string, flag: Flag<unknown>, value: string): unknown {
  try {
    return flag.parse(showNumber(value));
  } catch (expected) {
    if (typeof expected !== "string") throw expected;
    throw new UsageError(
      `${name} cannot be ${JSON.stringify(showNumber(value))}`,
      `use ${expected}`,
    );
  }
}
