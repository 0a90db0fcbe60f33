/** mallocd-client info: what the daemon tells about itself. */

import { formatSize } from "../../cli/sizes.ts";
import { define, formatPointer, print } from "../command.ts";

export const info = define({
  words: "",
  help: "print what the daemon tells about itself",
  details: "The epoch is random at each start: when it changes, all pointers are gone.",
  example: "mallocd-client info",
  prepare: () => async (context) => {
    const { remote, hex } = context;
    const hello = await remote.ping();
    const rows = hello === undefined ? [["protocol", "classic"]] : [
      ["protocol", `tagged ${hello.version}`],
      ["epoch", `0x${hello.epoch.toString(16).padStart(16, "0")}`],
      ["base", formatPointer(hello.base, hex)],
      ["size", `${hello.size} (${formatSize(Number(hello.size))})`],
      ["largest datagram", `${hello.largestDatagram}`],
    ];
    const lines = [["server", remote.server], ...rows].map(([name, value]) =>
      `${name}: ${value}\n`
    );
    print(context, lines.join(""), {
      server: remote.server,
      protocol: remote.protocol,
      ...hello && { ...hello, epoch: rows[1]![1], size: Number(hello.size) },
    });
    return true;
  },
});
