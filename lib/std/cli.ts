// @std/cli, from npm, with the signatures of the functions that we use: the package ships no types.
import { parseArgs as untyped } from "deno-std/cli/parse_args.js";

interface ParseOptions {
  /** Flags whose value is text; the name "_" keeps positional words as text too. */
  string?: readonly string[];
  boolean?: readonly string[];
  alias?: Readonly<Record<string, string>>;
  /** Keep words after a lone "--" apart, under the name "--". */
  "--"?: boolean;
  /** Called for what no other option names; returning false leaves it out of the result. */
  unknown?: (word: string, flag?: string, value?: unknown) => unknown;
}

interface Parsed {
  _: string[];
  "--"?: string[];
  [flag: string]: unknown;
}

export const parseArgs: (words: readonly string[], options?: ParseOptions) => Parsed = untyped;
