/** The manual page of a program, in roff with the macros of man(7). */

import { type Flags, HELP_FLAGS, type Program, variableOf } from "../lib/cli/flags.ts";
import { flagUsage } from "../lib/cli/help.ts";
import { MORE } from "../lib/cli/version.ts";

const VOLUMES = { 1: "User Commands", 8: "System Administration" };

export function manualPage(program: Program, version: string): string {
  const { section, exitStatus, signals, seeAlso } = program;
  const { name, summary, description, flags, commands = {}, examples } = program;
  const hasCommands = Object.keys(commands).length > 0;
  const variables = [flags, ...Object.values(commands).map(({ flags = {} }) => flags)]
    .flatMap(Object.keys).filter((flag) => !Object.hasOwn(HELP_FLAGS, flag));
  const sections: Record<string, string[]> = {
    NAME: [literal(`${name} - ${summary}`)],
    SYNOPSIS: [
      bold(name),
      ".RI [ OPTIONS ]",
      ...program.runsAlone ? [".br", bold(name)] : [],
      ...hasCommands ? [".I COMMAND", ".RI [ WORDS ]"] : [],
    ],
    DESCRIPTION: [sentences(description)],
    OPTIONS: optionList(flags),
    COMMANDS: Object.entries(commands).flatMap(([command, { words, help, details, flags }]) => [
      ...item(boldItalic(command, words), help),
      ...details === undefined ? [] : [".IP", sentences(details)],
      ...flags === undefined ? [] : [".RS", ...optionList(flags), ".RE"],
    ]),
    ENVIRONMENT: [
      sentences(
        "Each variable stands in for the option of that name, which wins where both are given. " +
          "For an option without a value it is 1 or 0.",
      ),
      ".PD 0",
      ...variables.flatMap((flag) => item(bold(variableOf(flag)), `--${flag}`)),
      ".PD",
    ],
    "EXIT STATUS": exitStatus.flatMap(([status, text]) => item(bold(status), text)),
    SIGNALS: signals.flatMap(([signal, text]) => item(bold(signal), text)),
    EXAMPLES: [".EX", ...examples.map((example) => literal(`$ ${example}`)), ".EE"],
    "SEE ALSO": [
      ...seeAlso.map(([page, section], at) =>
        `.BR ${literal(page)} (${section})${at < seeAlso.length - 1 ? "," : ""}`
      ),
      ".PP",
      sentences(MORE),
    ],
  };
  // A date would make each build another page: the version says how old it is.
  return [
    `.TH ${literal(name.toUpperCase())} ${section} "" "mallocd ${version}" "${VOLUMES[section]}"`,
    ".nh", // no hyphens in what may be typed
    ...Object.entries(sections).filter(([, lines]) => lines.length > 0)
      .flatMap(([title, lines]) => [`.SH ${title}`, ...lines]),
  ].join("\n") + "\n";
}

function optionList(flags: Flags): string[] {
  return Object.entries(flags).flatMap(([name, flag]) =>
    item(
      boldItalic(flagUsage(name, { ...flag, placeholder: "" }), flag.placeholder ?? ""),
      flag.default === undefined ? flag.help : `${flag.help} (default ${flag.default})`,
    )
  );
}

function item(term: string, text: string): string[] {
  return [".TP", term, sentences(text)];
}

function bold(text: string): string {
  return `.B ${literal(text)}`;
}

/** What is typed as it is, and what stands for something else. */
function boldItalic(typed: string, placeholder: string): string {
  return placeholder === "" ? bold(typed) : `.BI "${literal(typed)} " "${literal(placeholder)}"`;
}

/** Each sentence on a line of its own, so that roff knows where they end. */
function sentences(text: string): string {
  return literal(text.replaceAll("\n", " ").replace(/([.!?]) (?=[A-Z])/g, "$1\n"));
}

const ESCAPES: Readonly<Record<string, string>> = {
  "\\": "\\e",
  "-": "\\-",
  "'": "\\(aq",
  '"': "\\(dq",
  "`": "\\(ga",
  "^": "\\(ha",
  "~": "\\(ti",
};

/** Text that comes out as it is, although some characters mean more to roff, or are set prettier. */
function literal(text: string): string {
  return text.replace(/[\\\-'"`^~]/g, (character) => ESCAPES[character]!).replace(/^\./gm, "\\&.");
}
