/** mallocd-client top: how it is called. What it does is in ../top.ts, which takes time to load. */

import { describe } from "../command.ts";

export const top = describe({
  words: "",
  help: "watch the daemon: rates, latencies, and how full the heap is",
  details:
    "A screen that changes every TIME, 1s unless -i says otherwise, until q or Ctrl-C, or N times " +
    "with -r. Where standard output is no terminal it prints what was there in one TIME, and ends; " +
    "--json has it do so, too, as an object, by the names of stat, with latencies in microseconds. " +
    "It has no colours where NO_COLOR is set.",
  example: "mallocd-client top -i 5",
  repeats: true,
});
