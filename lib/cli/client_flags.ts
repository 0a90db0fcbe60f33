/** The flags and commands of mallocd-client. */

import {
  type Command,
  count,
  duration,
  type Flags,
  HELP_FLAGS,
  on,
  type Program,
  text,
} from "../flags.ts";
import { DEFAULT_SERVER, DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS } from "../remote.ts";

export const CLIENT_FLAGS = {
  server: text("HOST:PORT", DEFAULT_SERVER, "where mallocd listens"),
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

export const PING_FLAGS = {
  count: count("N", 5, [1, 1_000_000], "how many round trips"),
  interval: duration("TIME", "200ms", 60_000, "how long to wait between them"),
} as const satisfies Flags;

const NUMBERS = "Pointers, lengths and values are decimal or 0x hexadecimal, up to 64 bits.";

export const COMMANDS = {
  malloc: {
    words: "LEN",
    help: "allocate LEN zeroed bytes and print the pointer",
    details: NUMBERS,
    example: "mallocd-client malloc 5",
  },
  calloc: {
    words: "N SIZE",
    help: "allocate N zeroed elements of SIZE bytes and print the pointer",
    details: NUMBERS,
    example: "mallocd-client calloc 16 64",
  },
  realloc: {
    words: "PTR LEN",
    help: "resize an allocation and print its pointer, which may have changed",
    details: "What it holds is kept up to the smaller length, new bytes are zero. " +
      "PTR 0 allocates; LEN 0 frees and prints 0.",
    example: "mallocd-client realloc 842350460928 100",
  },
  free: {
    words: "PTR",
    help: "free an allocation",
    details: NUMBERS,
    example: "mallocd-client free 842350460928",
  },
  read: {
    words: "PTR LEN",
    help: "print LEN bytes at PTR, exactly; on a terminal a newline follows",
    details: "What is longer than a datagram is read in pieces, so not atomically.",
    example: "mallocd-client read 842350460928 5",
  },
  write: {
    words: "PTR LEN [DATA...]",
    help: "write LEN bytes of DATA, or of standard input, at PTR",
    details:
      "Several words are joined by blanks; what begins with a dash goes after --. LEN - means as " +
      "long as the data is; otherwise data must have that length. What is longer than a datagram is " +
      "written in pieces, so not atomically.",
    example: "mallocd-client write 842350460928 5 hello",
  },
  dump: {
    words: "PTR LEN",
    help: "show LEN bytes at PTR in hexadecimal and ASCII, with their addresses",
    details: "Like hexdump -C: a line that repeats the one before is shown as *.",
    example: "mallocd-client dump 842350460928 64",
  },
  cas: {
    words: "PTR EXPECTED DESIRED",
    help: "compare-and-swap the 8 bytes at PTR and print the old value",
    details:
      "The value is big-endian, PTR a multiple of 8. It was swapped if what is printed is EXPECTED.",
    example: "mallocd-client cas 842350460928 0 1",
  },
  add: {
    words: "PTR DELTA",
    help: "add DELTA to the 8 bytes at PTR and print the old value",
    details:
      "The value is big-endian, PTR a multiple of 8. DELTA may be negative; the sum is taken modulo 2^64.",
    example: "mallocd-client add 842350460928 -1",
  },
  ping: {
    words: "",
    help: "measure round trips, which change nothing",
    flags: PING_FLAGS,
    example: "mallocd-client ping --count 3",
  },
  info: {
    words: "",
    help: "print what the daemon tells about itself",
    details: "The epoch is random at each start: when it changes, all pointers are gone.",
    example: "mallocd-client info",
  },
  stress: {
    words: "[N]",
    help: "malloc, write, read back and compare, free: N times (default 10000)",
    details:
      "Prints operations per second, replies lost, bytes wrong, and round-trip percentiles. " +
      "Exit code 1 if anything was lost or wrong.",
    example: "mallocd-client stress 100000",
  },
  shell: {
    words: "",
    help: "look around with a line editor and variables: p = malloc 64",
    details:
      "Every command works without the program's name; NAME = COMMAND keeps what it prints, $NAME " +
      "gives it back. Quotes keep blanks. vars lists the variables, help the commands; exit or " +
      "Ctrl-D leaves.",
    example: "mallocd-client shell",
  },
} as const satisfies Readonly<Record<string, Command>>;

export type CommandName = keyof typeof COMMANDS;

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
