/** mallocd-client stress: the original's loop, over and over. */

import { NoReplyError, type Remote } from "../remote.ts";
import { Histogram } from "../load/histogram.ts";
import { define, parseNumber, print, rounded, type Terminal } from "../command.ts";

export const stress = define({
  words: "[N]",
  help: "malloc, write, read back and compare, free: N times (default 10000)",
  details: "Prints operations per second, replies lost, bytes wrong, and round-trip percentiles. " +
    "Exit code 1 if anything was lost or wrong.",
  example: "mallocd-client stress 100000",
  prepare: ([count = "10000"]) => {
    const rounds = Number(parseNumber("N", count));
    return async (context) => {
      const { summary, ...report } = await repeat(context.remote, rounds, context.terminal);
      const { lost, wrong } = report;
      print(context, `${summary}\n`, report);
      return lost === 0 && wrong === 0;
    };
  },
});

/** The original's stress loop: malloc 20, write 5, read 5, free. */
async function repeat(remote: Remote, rounds: number, { progress, signal }: Terminal) {
  const hello = new TextEncoder().encode("hello");
  const roundTrips = new Histogram();
  let [lost, wrong, done] = [0, 0, 0];
  const timed = async <T>(call: Promise<T>): Promise<T> => {
    const start = performance.now();
    const result = await call;
    roundTrips.record(Math.round((performance.now() - start) * 1e6), 1);
    return result;
  };
  const start = performance.now();
  let shown = start;
  for (; done < rounds && !signal.aborted; done++) {
    try {
      const pointer = await timed(remote.malloc(20));
      await remote.write(pointer, hello);
      const back = await timed(remote.read(pointer, hello.length));
      if (!back.every((byte, i) => byte === hello[i])) wrong++;
      await remote.free(pointer);
    } catch (error) {
      if (!(error instanceof NoReplyError)) throw error;
      lost++;
    }
    if (performance.now() - shown > 100) {
      shown = performance.now();
      progress(progressBar(done, rounds));
    }
  }
  progress("");
  const seconds = (performance.now() - start) / 1000;
  const percentile = (percent: number) => Math.round(roundTrips.percentile(percent) / 1000);
  const [p50, p99] = [percentile(50), percentile(99)];
  const summary = `${4 * done} operations in ${seconds.toFixed(2)} s, ` +
    `${Math.round(4 * done / seconds)}/s, ${lost} lost, ${wrong} wrong, ` +
    `round trip p50 ${p50} us, p99 ${p99} us`;
  return { operations: 4 * done, seconds: rounded(seconds), lost, wrong, p50, p99, summary };
}

const BAR_WIDTH = 40;

function progressBar(done: number, all: number): string {
  const filled = Math.round(done / all * BAR_WIDTH);
  return `[${"#".repeat(filled).padEnd(BAR_WIDTH, ".")}] ${done}/${all}`;
}
