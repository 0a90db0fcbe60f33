/** The commands of mallocd-client, in the order of the help. */

import { checkWords as checkWordsOf, unknownCommand } from "../cli/command.ts";
import type { ClientCommand } from "./command.ts";
import { malloc } from "./commands/malloc.ts";
import { calloc } from "./commands/calloc.ts";
import { realloc } from "./commands/realloc.ts";
import { free } from "./commands/free.ts";
import { read } from "./commands/read.ts";
import { write } from "./commands/write.ts";
import { dump } from "./commands/dump.ts";
import { cas } from "./commands/cas.ts";
import { add } from "./commands/add.ts";
import { install } from "./commands/install.ts";
import { call } from "./commands/call.ts";
import { uninstall } from "./commands/uninstall.ts";
import { ping } from "./commands/ping.ts";
import { cluster } from "./commands/cluster.ts";
import { info } from "./commands/info.ts";
import { snapshot } from "./commands/snapshot.ts";
import { sync } from "./commands/sync.ts";
import { stat } from "./commands/stat.ts";
import { top } from "./commands/top.ts";
import { stress } from "./commands/stress.ts";
import { bench } from "./commands/bench.ts";
import { shell } from "./commands/shell.ts";
import { help } from "./commands/help.ts";
import { version } from "./commands/version.ts";

const TABLE = {
  malloc,
  calloc,
  realloc,
  free,
  read,
  write,
  dump,
  cas,
  add,
  install,
  call,
  uninstall,
  ping,
  info,
  sync,
  snapshot,
  stat,
  top,
  cluster,
  stress,
  bench,
  shell,
  help,
  version,
};

export type CommandName = keyof typeof TABLE;

export const COMMANDS: Readonly<Record<CommandName, ClientCommand>> = TABLE;

export function isCommand(word: string | undefined): word is CommandName {
  return word !== undefined && Object.hasOwn(COMMANDS, word);
}

const PROGRAM = { name: "mallocd-client", commands: COMMANDS };

/** The command of that name. Throws UsageError if there is none, with what was probably meant. */
export function commandOf(word: string): CommandName {
  if (!isCommand(word)) throw unknownCommand(PROGRAM, word);
  return word;
}

/** Throws UsageError unless there are as many words as the help shows. */
export function checkWords(command: CommandName, words: readonly string[]): void {
  checkWordsOf(PROGRAM, command, words);
}
