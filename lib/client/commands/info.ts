/** mallocd-client info: what the daemon tells about itself. */

import { formatSize } from "../../cli/sizes.ts";
import { define, formatPointer } from "../command.ts";

export const info = define({
  words: "",
  help: "print what the daemon tells about itself",
  details: "The epoch is random at each start: when it changes, all pointers are gone.",
  example: "mallocd-client info",
  prepare: () => async ({ remote, terminal, hex }) => {
    const hello = await remote.ping();
    const rows = hello === undefined ? [["protocol", "classic"]] : [
      ["protocol", `tagged ${hello.version}`],
      ["epoch", `0x${hello.epoch.toString(16).padStart(16, "0")}`],
      ["base", formatPointer(hello.base, hex)],
      ["size", `${hello.size} (${formatSize(Number(hello.size))})`],
      ["largest datagram", `${hello.largestDatagram}`],
    ];
    for (const [name, value] of [["server", remote.server], ...rows]) {
      terminal.write(`${name}: ${value}\n`);
    }
    return true;
  },
});
