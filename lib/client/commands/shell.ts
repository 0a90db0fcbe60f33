/** mallocd-client shell: how it is called. What it does is in ../shell.ts, which takes time to load. */

import { describe } from "../command.ts";

export const shell = describe({
  words: "",
  help: "look around with a line editor and variables: p = malloc 64",
  details:
    "Every command works without the program's name; NAME = COMMAND keeps what it prints, $NAME " +
    "gives it back. Quotes keep blanks, and write does without LEN. vars lists the variables, help " +
    "the commands; exit or Ctrl-D leaves.",
  example: "mallocd-client shell",
});
