/** What bash, zsh and fish load to complete the command line of a program. */

import type { Flag, Flags, Program } from "../lib/cli/flags.ts";

export function bashCompletion({ name, flags, commands = {} }: Program): string {
  const names = Object.keys(commands);
  const all = [flags, ...Object.values(commands).map(({ flags = {} }) => flags)]
    .flatMap((table) => Object.entries<Flag<unknown>>(table));
  const valued = all.filter(([, { placeholder }]) => placeholder !== undefined);
  const files = valued.filter(([, { placeholder }]) => isFile(placeholder));
  const free = valued.filter(([, { choices, placeholder }]) =>
    choices === undefined && !isFile(placeholder)
  );
  const pattern = (flags: typeof all) =>
    flags.flatMap(([flag, { short }]) => [...short === undefined ? [] : [`-${short}`], `--${flag}`])
      .join(" | ");

  const choicesOfFlags = all.flatMap(([flag, { choices }]) =>
    choices === undefined ? [] : [`    --${flag}) choices='${choices.join(" ")}' ;;\n`]
  );
  const choicesOfCommands = Object.entries(commands).flatMap(([command, { words, flags }]) => [
    ...flags === undefined ? [] : [`    ${command}) choices+=' ${options(flags)}' ;;\n`],
    ...isFile(words) ? [`    ${command}) [[ $word == -* ]] || files=1 ;;\n`] : [],
    ...words === COMMAND ? [`    ${command}) choices+=' ${names.join(" ")}' ;;\n`] : [],
  ]);
  const lookForCommand = `
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      ${pattern(valued)})
        [[ \${COMP_WORDS[++i]} != = ]] || ((i++)) # past its value
        ;;
      ${names.join(" | ")})
        command=\${COMP_WORDS[i]}
        break
        ;;
    esac
  done
  case $command in
    '') [[ $word == -* ]] || choices='${names.join(" ")}' ;;
${choicesOfCommands.join("")}  esac`;

  const complete = `_${name.replaceAll("-", "_")}`;
  return `# bash completion of ${name}

${complete}() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD - 1]} command files i
  local choices='${options(flags)}'
  # To bash, --flag=value is three words.
  if [[ $word == = ]]; then
    word=
  elif [[ $before == = ]]; then
    before=\${COMP_WORDS[COMP_CWORD - 2]}
  fi${names.length === 0 ? "" : lookForCommand}
  case $before in
${choicesOfFlags.join("")}    ${pattern(free)}) choices= files= ;;
    ${pattern(files)}) files=1 ;;
  esac
  if [[ $files ]]; then
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$word")
  else
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
  fi
}
complete -F ${complete} ${name}
`;
}

export function zshCompletion({ name, flags, commands = {} }: Program): string {
  const names = Object.keys(commands);
  const descriptions = Object.entries(commands).map(([command, { help }]) =>
    `  ${quote(`${command}:${help}`)}\n`
  );
  const specsOfCommands = Object.entries(commands).flatMap(([command, { words, flags = {} }]) => {
    const others = isFile(words)
      ? "*:FILE:_files"
      : words === COMMAND
      ? `*:command:{ ${describeAll} }`
      : "*: :";
    const specs = zshSpecs(flags) + `  ${quote(others)}\n`;
    return others === "*: :" && Object.keys(flags).length === 0
      ? []
      : [`  ${command}) specs+=(\n${specs}  ) ;;\n`];
  });
  const lookForCommand = `local -a subcommands=(
${descriptions.join("")})
specs+=('1:command:{ ${describeAll} }')
case \${\${words[2,CURRENT-1]}[(r)(${names.join("|")})]} in
${specsOfCommands.join("")}  *) specs+=('*: :') ;;
esac
`;

  return `#compdef ${name}

local -a specs=(
${zshSpecs(flags)})
${names.length === 0 ? "" : lookForCommand}_arguments -S $specs
`;
}

export function fishCompletion({ name, flags, commands = {} }: Program): string {
  const names = Object.keys(commands);
  const linesOfCommands = Object.entries(commands).flatMap(([
    command,
    { words, help, flags = {} },
  ]) => [
    `complete -c ${name} -n "not __fish_seen_subcommand_from $subcommands" ` +
    `-a ${command} -d ${fishQuote(help)}\n`,
    ...isFile(words)
      ? [`complete -c ${name} -n '__fish_seen_subcommand_from ${command}' -F\n`]
      : [],
    ...words === COMMAND
      ? [`complete -c ${name} -n '__fish_seen_subcommand_from ${command}' -a "$subcommands"\n`]
      : [],
    ...fishLines(`${name} -n '__fish_seen_subcommand_from ${command}'`, flags),
  ]);
  return [
    `# fish completion of ${name}\n\n`,
    names.length === 0 ? "" : `set -l subcommands ${names.join(" ")}\n`,
    `complete -c ${name} -f\n`,
    ...fishLines(name, flags),
    ...linesOfCommands,
  ].join("");
}

/** What the words of a command are that is about commands. */
const COMMAND = "[COMMAND]";

/** How zsh shows all commands. */
const describeAll = "_describe command subcommands";

/** Whether that is the name of a file, as the help shows it. */
function isFile(words: string | undefined): boolean {
  return words === "FILE" || words === "PATH";
}

function options(flags: Flags): string {
  return Object.keys(flags).map((name) => `--${name}`).join(" ");
}

/** The flags as _arguments takes them: `--flag=[help]:PLACEHOLDER:(choices)`, and `-f+` for a letter. */
function zshSpecs(flags: Flags): string {
  return Object.entries(flags).flatMap(([name, { placeholder, short, help, choices = [] }]) => {
    const explanation = `[${help.replace(/[[\]\\]/g, "\\$&")}]`;
    const letter = short === undefined ? [] : [`-${short}`];
    if (placeholder === undefined) {
      return [...letter, `--${name}`].map((flag) => flag + explanation);
    }
    const value = placeholder.replaceAll(":", "\\:");
    const action = isFile(placeholder)
      ? "_files"
      : choices.length === 0
      ? ""
      : `(${choices.join(" ")})`;
    return [...letter.map((flag) => `${flag}+`), `--${name}=`]
      .map((flag) => `${flag}${explanation}:${value}:${action}`);
  }).map((spec) => `  ${quote(spec)}\n`).join("");
}

function fishLines(command: string, flags: Flags): string[] {
  return Object.entries(flags).map(([name, { placeholder, short, help, choices }]) => {
    const letter = short === undefined ? "" : ` -s ${short}`;
    const value = placeholder === undefined ? "" : isFile(placeholder) ? " -rF" : " -x";
    const action = choices === undefined ? "" : ` -a '${choices.join(" ")}'`;
    return `complete -c ${command}${letter} -l ${name}${value}${action} -d ${fishQuote(help)}\n`;
  });
}

/** Between the quotes of zsh nothing is special, not even a backslash. */
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function fishQuote(text: string): string {
  return `'${text.replace(/['\\]/g, "\\$&")}'`;
}
