import { assert } from "@std/assert";
import { Arena, Libc, Unavailable } from "../../lib/system/libc.ts";
import { Layout } from "../../lib/system/message.ts";
import { layOutStopwatch, Stopwatch } from "../../lib/system/stopwatch.ts";

/** Undefined, or why there is none here. */
function openLibc(): Libc | string {
  try {
    return new Libc();
  } catch (error) {
    if (error instanceof Unavailable) return error.message;
    throw error;
  }
}

const libc = openLibc();

Deno.test({
  name:
    `Stopwatch measures no more than what passes around it, and no less than what passes within${
      typeof libc === "string" ? ` (skipped: ${libc})` : ""
    }`,
  ignore: typeof libc === "string",
  async fn() {
    const layout = new Layout();
    const at = layOutStopwatch(layout);
    const stopwatch = new Stopwatch(libc as Libc, new Arena(libc as Libc, layout.bytes), at);
    for (const ms of [0, 1, 3, 1100, 0]) { // one that is longer than a second
      const before = performance.now();
      stopwatch.start();
      const begun = performance.now();
      await new Promise((resolve) => setTimeout(resolve, ms));
      const ended = performance.now();
      const ns = stopwatch.stop();
      const after = performance.now();
      const [least, most] = [(ended - begun) * 1e6, (after - before) * 1e6];
      const tick = 1000; // of the other clock
      assert(ns >= least - tick && ns <= most + tick, `${least} <= ${ns} <= ${most}`);
    }
  },
});
