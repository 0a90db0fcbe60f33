/** mallocd-client shell: how it is called. What it does is in ../shell.ts, which takes time to load. */

import { describe } from "../command.ts";

export const shell = describe({
  words: "",
  help: "look around with a line editor and variables: p = malloc 64",
  details:
    "Every command works without the program's name, with its options; NAME = COMMAND keeps what it " +
    "prints, $NAME gives it back, $NAME+16 calculates with it. Quotes keep blanks; in double quotes " +
    "\\n, \\t, \\0, \\u{e9} and the like are characters, \\xff is a byte. write does without LEN. vars lists the " +
    "variables, help the commands, help COMMAND tells more; exit, quit or Ctrl-D leaves. What is typed at " +
    "the prompt is kept in $XDG_STATE_HOME/mallocd/history, ~/.local/state unless that is set. When " +
    "the daemon was restarted the shell says that the pointers are stale, and runs nothing with them.",
  example: "mallocd-client shell",
});
