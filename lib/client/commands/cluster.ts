/** mallocd-client cluster: who has which range of the addresses. */

import { formatSize } from "../../cli/sizes.ts";
import { RefusedError, Remote } from "../remote.ts";
import { type Context, define, formatPointer, print } from "../command.ts";

export const cluster = define({
  words: "",
  help: "print the ranges of a cluster, and who has them",
  details:
    "Each range's daemon is asked. The fence is higher for each daemon that has had the range; the epoch " +
    "stays the same as long as its contents do. Copies are the nodes that have what was logged last; waiting " +
    "are bytes of requests and replies that are not logged yet; log are those that were logged since the last " +
    "snapshot, which only a standby makes. Exit code 1 if a range has no daemon that answers.",
  example: "mallocd-client cluster",
  prepare: () => show,
});

async function show(context: Context): Promise<boolean> {
  const { remote, hex } = context;
  const ranges = await remote.survey();
  if (ranges.length === 0) {
    throw new RefusedError("cluster()", undefined, `${remote.server} is a daemon of its own`);
  }
  const figures = await Promise.all(
    ranges.map((found) => found && figuresOf(found.server, context.timeout)),
  );
  const rows = [["range", "base", "owner", "fence", "epoch", "size", "copies", "waiting", "log"]];
  for (const [range, found] of ranges.entries()) {
    if (found === undefined) {
      rows.push([`${range}`, "", "none that answers"]);
      continue;
    }
    const { server, hello } = found;
    rows.push([
      `${range}`,
      formatPointer(hello.base, hex),
      server,
      `${hello.cluster?.fence}`,
      `0x${hello.epoch.toString(16).padStart(16, "0")}`,
      formatSize(Number(hello.size)),
      `${figures[range]?.copies ?? "?"}`,
      `${figures[range]?.held ?? "?"}`,
      `${figures[range]?.log ?? "?"}`,
    ]);
  }
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  const text = rows.map((row) =>
    row.map((word, i) => word.padEnd(widths[i]!)).join("  ").trimEnd() + "\n"
  );
  print(context, text.join(""), {
    ranges: ranges.map((found, range) => ({
      range,
      ...found && {
        owner: found.server,
        base: found.hello.base,
        size: Number(found.hello.size),
        epoch: rows[range + 1]![4],
        fence: Number(found.hello.cluster?.fence),
        ...figures[range],
      },
    })),
  });
  return ranges.every((found) => found !== undefined);
}

/** How far the cluster is behind a daemon; undefined if that one does not tell. */
async function figuresOf(
  server: string,
  timeout: number,
): Promise<{ copies: number; held: number; log: number } | undefined> {
  try {
    await using remote = await Remote.connect({ server, timeout });
    const stats = await remote.stats();
    const [copies, held, log] = ["copies", "held", "log"].map((name) =>
      Number(stats.get(name)?.value)
    );
    return { copies: copies!, held: held!, log: log! };
  } catch {
    return undefined;
  }
}
