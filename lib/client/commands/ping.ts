/** mallocd-client ping: round trips that change nothing. */

import { count, duration, type Flags, type Values } from "../../cli/flags.ts";
import { NoReplyError } from "../remote.ts";
import { type Context, define, print, rounded, sleep } from "../command.ts";

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
  context: Context,
  { count, interval }: Values<typeof FLAGS>,
): Promise<boolean> {
  const { remote, terminal } = context;
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
      const text = `reply from ${remote.server}: seq=${sent} time=${time.toFixed(3)} ms\n`;
      print(context, text, { seq: sent, ms: rounded(time) });
    } catch (error) {
      if (terminal.signal.aborted) break;
      if (!(error instanceof NoReplyError)) throw error;
      terminal.say(error.message);
    }
  }
  const lost = sent - received;
  const [avg, times] = [sum / received, received > 0];
  const milliseconds = [min, avg, max].map((time) => time.toFixed(3)).join("/");
  print(
    context,
    `${sent} sent, ${received} received, ${lost} lost` +
      (times ? `; min/avg/max ${milliseconds} ms\n` : "\n"),
    {
      sent,
      received,
      lost,
      ...times && { min: rounded(min), avg: rounded(avg), max: rounded(max) },
    },
  );
  return received > 0;
}
