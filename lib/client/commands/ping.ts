/** mallocd-client ping: round trips that change nothing. */

import { count, duration, type Flags, type Values } from "../../cli/flags.ts";
import { NoReplyError } from "../remote.ts";
import { type Context, define } from "../command.ts";

const FLAGS = {
  count: count("N", 5, [1, 1_000_000], "how many round trips"),
  interval: duration("TIME", "200ms", 60_000, "how long to wait between them"),
} as const satisfies Flags;

export const ping = define({
  words: "",
  help: "measure round trips, which change nothing",
  flags: FLAGS,
  example: "mallocd-client ping --count 3",
  prepare: () => (context, values) => measure(context, values),
});

async function measure(
  { remote, terminal }: Context,
  { count, interval }: Values<typeof FLAGS>,
): Promise<boolean> {
  let [sent, received, sum, min, max] = [0, 0, 0, Infinity, 0];
  while (sent < count) {
    if (sent > 0) await sleep(interval, terminal.signal);
    if (terminal.signal.aborted) break;
    sent++;
    const start = performance.now();
    try {
      await remote.ping({ signal: terminal.signal });
      const time = performance.now() - start;
      received++;
      sum += time;
      min = Math.min(min, time);
      max = Math.max(max, time);
      terminal.write(`reply from ${remote.server}: seq=${sent} time=${time.toFixed(3)} ms\n`);
    } catch (error) {
      if (terminal.signal.aborted) break;
      if (!(error instanceof NoReplyError)) throw error;
      terminal.say(error.message);
    }
  }
  terminal.write(`${sent} sent, ${received} received, ${sent - received} lost`);
  if (received > 0) {
    const times = [min, sum / received, max].map((time) => time.toFixed(3));
    terminal.write(`; min/avg/max ${times.join("/")} ms`);
  }
  terminal.write("\n");
  return received > 0;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => resolve(), { once: true });
  return promise.finally(() => clearTimeout(timer));
}
