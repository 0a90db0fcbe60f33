/**
 * A line of the shell as words: blanks separate them, quotes of either kind keep blanks, `$NAME` stands for
 * what a variable holds, and `$NAME+16` for the sum, if that is a number.
 */

import { UsageError } from "../cli/flags.ts";
import { parseSize } from "../cli/sizes.ts";
import { characterOf } from "./text.ts";

export type Variables = ReadonlyMap<string, string>;

export interface Word {
  readonly text: string;
  /** Whether a part of it stood in quotes, so that it is text whatever it looks like. */
  readonly quoted: boolean;
}

/** In turn: "...", '...', `$NAME` with what is added to it, a quote that nothing closes, blanks, the rest. */
const PARTS =
  /"((?:[^"\\]|\\.)*)"|'([^']*)'|\$(\w+)((?:[+-](?:\$\w+|\w+))*)|(["'])|\s+|[^\s"'$]+|\$/g;

/**
 * The words of a line. Throws UsageError for a quote that is not closed, a variable that is not set, an
 * escape that does not exist, and arithmetic on what is no number.
 */
export function splitLine(line: string, variables: Variables): Word[] {
  const words: Word[] = [];
  let word: { text: string; quoted: boolean } | undefined;
  const add = (text: string, quoted = false) => {
    word = { text: (word?.text ?? "") + text, quoted: quoted || word?.quoted === true };
  };
  for (const [part, double, single, name, terms = "", open] of line.matchAll(PARTS)) {
    if (open !== undefined) throw new UsageError(`no closing ${open}`, "close the quote");
    if (/^\s/.test(part)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else if (double !== undefined) add(unescape(double, variables), true);
    else if (single !== undefined) add(single, true);
    else if (name !== undefined) add(sum(valueOf(name, variables), name, terms, variables));
    else add(part);
  }
  if (word !== undefined) words.push(word);
  return words;
}

function valueOf(name: string, variables: Variables): string {
  const value = variables.get(name);
  if (value === undefined) throw new UsageError(`$${name} is not set`, `${name} = malloc 64`);
  return value;
}

/** What an escape in double quotes stands for, beside \u{...} and \xHH: any character, and any byte. */
const ESCAPES: Readonly<Record<string, string>> = {
  n: "\n",
  r: "\r",
  t: "\t",
  0: "\0",
  "\\": "\\",
  '"': '"',
  $: "$",
};

function unescape(text: string, variables: Variables): string {
  const escapes = /\\x([0-9a-f]{2})|\\u\{([0-9a-f]{1,6})\}|\\(.)|\$(\w+)/giu;
  return text.replace(escapes, (part, byte, code, escaped, name) => {
    if (name !== undefined) return valueOf(name, variables);
    if (byte !== undefined) return characterOf(parseInt(byte, 16));
    const character = code === undefined ? ESCAPES[escaped] : codePoint(parseInt(code, 16));
    if (character !== undefined) return character;
    throw new UsageError(
      `there is no escape ${part}`,
      'use \\n, \\r, \\t, \\0, \\\\, \\", \\$, \\x00 or \\u{e9}; single quotes keep a backslash',
    );
  });
}

function codePoint(code: number): string | undefined {
  const isSurrogate = code >= 0xd800 && code <= 0xdfff;
  return code > 0x10ffff || isSurrogate ? undefined : String.fromCodePoint(code);
}

/** The value of a variable with terms like `+16`, `-0x10`, `+1KiB` or `-$n` added: hexadecimal if it is. */
function sum(value: string, name: string, terms: string, variables: Variables): string {
  if (terms === "") return value;
  let total = numberOf(value, `$${name}`);
  for (const [, sign, variable, literal] of terms.matchAll(/([+-])(?:\$(\w+)|(\w+))/g)) {
    const term = variable === undefined
      ? numberOf(literal!, literal!)
      : numberOf(valueOf(variable, variables), `$${variable}`);
    total += sign === "-" ? -term : term;
  }
  if (total < 0n || total >= 2n ** 64n) {
    throw new UsageError(`$${name}${terms} is ${total}`, "use what is at least 0 and below 2^64");
  }
  return /^0x/i.test(value) ? `0x${total.toString(16)}` : `${total}`;
}

function numberOf(text: string, shown: string): bigint {
  if (/^(0x[0-9a-f]+|\d+)$/i.test(text)) return BigInt(text);
  const bytes = parseSize(text);
  if (bytes !== undefined) return BigInt(bytes);
  const what = text === shown ? "" : ` is ${JSON.stringify(text)}, which`;
  throw new UsageError(
    `${shown}${what} is no number to calculate with`,
    'put the word in double quotes to keep it as text: "..."',
  );
}
