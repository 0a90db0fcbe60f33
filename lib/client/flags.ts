/** The flags of mallocd-client that go with every command, and the program that the help describes. */

import {
  count,
  duration,
  type Flag,
  HELP_FLAGS,
  MISUSED,
  on,
  optional,
  type Program,
  text,
} from "../cli/flags.ts";
import { COMMANDS } from "./commands.ts";
import { DEFAULT_SERVER, DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS } from "./remote.ts";
import { isQuic, parseServer, QUIC } from "./transport.ts";

function address(placeholder: string, standard: string, help: string): Flag<string> {
  const parse = (value: string) => {
    const hosts = isQuic(value) ? [value.slice(QUIC.length)] : value.split(",");
    if (hosts.some((host) => parseServer(host) === undefined)) {
      throw "HOST:PORT, as 127.0.0.1:8081 or [::1]:8081";
    }
    return value;
  };
  return { placeholder, default: standard, help, parse };
}

export const CLIENT_FLAGS = {
  server: address("HOST:PORT", DEFAULT_SERVER, "where mallocd listens; over QUIC quic://HOST:PORT"),
  ca: optional(text("FILE", "", "certificate in PEM that vouches for a quic:// server")),
  "token-file": optional(text("FILE", "", "file whose first line a quic:// server asks for")),
  timeout: duration(
    "TIME",
    `${DEFAULT_TIMEOUT_MS / 1000}s`,
    MAX_TIMEOUT_MS,
    "how long to wait for a reply",
  ),
  hex: on("print pointers in hexadecimal"),
  json: on("print objects, one a line; 64-bit numbers are strings in them"),
  repeat: {
    ...optional(count("N", 1, [1, 1_000_000_000], "how many times to do it, instead of once")),
    short: "r",
  },
  every: {
    ...optional(duration("TIME", "1s", 3_600_000, "with -r, how long to wait before each repeat")),
    short: "i",
  },
  pipe: on("run the commands of standard input, many at a time; a result a line, in order"),
  classic: on("speak the classic protocol, in which free and write go unanswered"),
  verbose: on("say on stderr which protocol is spoken"),
  ...HELP_FLAGS,
} as const;

export const CLIENT: Program = {
  name: "mallocd-client",
  summary: "use malloc(3) on a mallocd",
  description:
    "mallocd-client sends one command to a mallocd over UDP and prints what comes back: data " +
    "on standard output, everything else on standard error. It speaks the tagged protocol, in which " +
    "every request is answered and repeats are harmless, and falls back to the classic one if the " +
    "daemon knows no other.",
  flags: CLIENT_FLAGS,
  commands: COMMANDS,
  examples: [
    "mallocd-client malloc 5",
    "mallocd-client write 842350460928 5 hello",
    "mallocd-client read 842350460928 4",
    "mallocd-client free 842350460928",
  ],
  exitStatus: [
    ["0", "It was done."],
    ["1", "The daemon refused or did not answer, or what it measured was lost or wrong."],
    MISUSED,
  ],
  signals: [[
    "SIGINT",
    "What measures or repeats ends with its summary; the second ends all at once.",
  ]],
  section: 1,
  seeAlso: [["mallocd", 8], ["malloc", 3]],
};
