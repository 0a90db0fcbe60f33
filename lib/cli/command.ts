/** Which command of a program is meant, and whether its words are as many as its help shows. */

import { type Command, type Program, UsageError } from "./flags.ts";
import { didYouMean } from "./nearest.ts";

type Commanded = Pick<Program, "name" | "commands">;

/** What is said of a word that is no command, with what was probably meant. */
export function unknownCommand({ name, commands = {} }: Commanded, word: string): UsageError {
  return new UsageError(
    `unknown command ${JSON.stringify(word)}${didYouMean(word, Object.keys(commands))}`,
    `${name} help lists them`,
  );
}

/** The command of that name. Throws UsageError if there is none. */
export function commandOf(program: Commanded, word: string): Command {
  const { commands = {} } = program;
  if (!Object.hasOwn(commands, word)) throw unknownCommand(program, word);
  return commands[word]!;
}

/** Throws UsageError unless there are as many words as the help shows. */
export function checkWords(program: Commanded, command: string, words: readonly string[]): void {
  const all = commandOf(program, command).words;
  const wanted = all.split(" ").filter((word) => word !== "");
  const least = wanted.filter((word) => !word.startsWith("[")).length;
  const most = wanted.at(-1)?.includes("...") ? Infinity : wanted.length;
  if (words.length >= least && words.length <= most) return;
  const problem = words.length < least
    ? `${wanted[words.length]} is missing`
    : `${JSON.stringify(words[most])} is one word too many`;
  throw new UsageError(`${command}: ${problem}`, `${program.name} ${command} ${all}`.trim());
}
