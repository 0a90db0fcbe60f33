/** Which cores the client and the servers get. */

import { run } from "./programs.ts";

/**
 * Gives the last core to this process and to the clients that it starts, and returns the words that, put
 * before a server's command line, give it the others. On one core they would wait for each other for
 * milliseconds, as neither sleeps much, and there are schedulers that do put them on one core. Without
 * taskset, or a second core, everybody may run everywhere, and there are no words.
 */
export async function shareCores(): Promise<string[]> {
  const last = navigator.hardwareConcurrency - 1;
  const words = ["--cpu-list", `0-${last - 1}`];
  try {
    await run("taskset", ...words, "true");
    await run("taskset", "--all-tasks", "--cpu-list", "--pid", `${last}`, `${Deno.pid}`);
    return ["taskset", ...words];
  } catch {
    console.error("bench-compare: client and servers share all cores: taskset cannot part them");
    return [];
  }
}
