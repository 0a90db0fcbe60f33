/** The flags of mallocd-client that go with every command, and the program that the help describes. */

import { duration, type Flag, HELP_FLAGS, on, type Program } from "../cli/flags.ts";
import { COMMANDS } from "./commands.ts";
import { DEFAULT_SERVER, DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS } from "./remote.ts";
import { parseServer } from "./transport.ts";

function address(placeholder: string, standard: string, help: string): Flag<string> {
  const parse = (value: string) => {
    if (parseServer(value) === undefined) throw "HOST:PORT, as 127.0.0.1:8081 or [::1]:8081";
    return value;
  };
  return { placeholder, default: standard, help, parse };
}

export const CLIENT_FLAGS = {
  server: address("HOST:PORT", DEFAULT_SERVER, "where mallocd listens"),
  timeout: duration(
    "TIME",
    `${DEFAULT_TIMEOUT_MS / 1000}s`,
    MAX_TIMEOUT_MS,
    "how long to wait for a reply",
  ),
  hex: on("print pointers in hexadecimal"),
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
};
