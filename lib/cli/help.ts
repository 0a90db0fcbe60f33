/** The help texts of a program and of its commands, from the tables of flags.ts. */

import { MORE } from "./version.ts";
import { type Command, type Flag, type Flags, type Program, variableOf } from "./flags.ts";

/** The rows of a help text: two columns, the second aligned. */
function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}\n`).join("");
}

/** Breaks text at blanks into lines of at most 80 characters. */
function wrap(text: string): string {
  return text.replace(/(?![^\n]{1,80}$)([^\n]{1,80}) /g, "$1\n");
}

export function flagUsage(name: string, flag: Flag<unknown>): string {
  const short = flag.short === undefined ? "" : `-${flag.short}, `;
  return `${short}--${name} ${flag.placeholder ?? ""}`.trimEnd();
}

function flagTable(flags: Flags): string {
  return table(
    Object.entries(flags).map(([name, flag]) => {
      const standard = flag.default === undefined ? "" : ` (default ${flag.default})`;
      return [flagUsage(name, flag), flag.help + standard] as const;
    }),
  );
}

export function programHelp(program: Program): string {
  const { name, summary, flags, commands, runsAlone, examples, exitStatus, signals, seeAlso } =
    program;
  const lines = [`${name}: ${summary}\n`];
  lines.push(
    runsAlone
      ? `\nUsage: ${name} [OPTIONS]\n       ${name} COMMAND [WORDS]\n`
      : `\nUsage: ${name} [OPTIONS] COMMAND [WORDS]\n`,
  );
  if (commands !== undefined) {
    const rows = Object.entries(commands).map(([command, { words, help }]) =>
      [`${command} ${words}`.trim(), help] as const
    );
    lines.push(`\nCommands (${name} COMMAND --help tells more):\n`, table(rows));
  }
  lines.push("\nOptions:\n", flagTable(flags));
  const [first = ""] = Object.keys(flags);
  lines.push("\nEvery option but --help and --version can also be set by a variable: ");
  lines.push(`--${first} is ${variableOf(first)}.\n`);
  lines.push("\nExamples:\n", ...examples.map((example) => `  $ ${example}\n`));
  lines.push("\nExit codes:\n", table(exitStatus), "\nSignals:\n", table(signals));
  const pages = seeAlso.map(([page, section]) => `${page}(${section})`);
  lines.push(`\nSee also: ${pages.join(", ")}\n${wrap(MORE)}\n`);
  return lines.join("");
}

export function commandHelp(program: Program, name: string, command: Command): string {
  const lines = [
    `${program.name} ${name}: ${command.help}\n`,
    `\nUsage: ${program.name} ${program.runsAlone ? "" : "[OPTIONS] "}${name} ${command.words}`
      .trimEnd() + "\n",
  ];
  if (command.details !== undefined) lines.push(`\n${wrap(command.details)}\n`);
  if (command.flags !== undefined) lines.push("\nOptions:\n", flagTable(command.flags));
  if (!program.runsAlone) lines.push(`\nGeneral options:\n`, flagTable(program.flags));
  lines.push("\nExample:\n", `  $ ${command.example}\n`);
  return lines.join("");
}
