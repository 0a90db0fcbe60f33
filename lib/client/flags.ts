/** The flags and commands of mallocd-client. */

import {
  type Command,
  count,
  duration,
  type Flag,
  type Flags,
  HELP_FLAGS,
  on,
  optional,
  type Program,
} from "../cli/flags.ts";
import { type Mix, parseMix, parseSizes, type Sizes } from "./load/workload.ts";
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

export const PING_FLAGS = {
  count: count("N", 5, [1, 1_000_000], "how many round trips"),
  interval: duration("TIME", "200ms", 60_000, "how long to wait between them"),
} as const satisfies Flags;

function mixed(placeholder: string, standard: string, help: string): Flag<Mix> {
  const parse = (value: string) => {
    const mix = parseMix(value);
    if (mix === undefined) throw "methods and how often each, as read=70,write=20,malloc=5,free=5";
    return mix;
  };
  return { placeholder, default: standard, help, parse };
}

function sizes(placeholder: string, standard: string, help: string): Flag<Sizes> {
  const parse = (value: string) => {
    const range = parseSizes(value);
    if (range === undefined) throw "bytes, as 64, 16-1024 or log:16-1024";
    return range;
  };
  return { placeholder, default: standard, help, parse };
}

export const BENCH_FLAGS = {
  clients: count("N", 1, [1, 1024], "how many senders there are, each with a port of its own"),
  "in-flight": count("N", 32, [1, 65536], "datagrams that each may have in flight"),
  "per-datagram": count("N", 1, [1, 2048], "requests in each datagram"),
  mix: mixed(
    "METHOD=N,...",
    "read=70,write=20,malloc=5,free=5",
    "how often each method is used",
  ),
  size: sizes("BYTES", "64", "size of blocks: 64, or 16-1024, or log:16-1024"),
  seconds: duration("TIME", "5s", 3_600_000, "how long to measure"),
  rate: optional(
    count("N", 1, [1, 100_000_000], "requests a second, due at fixed times; not on each reply"),
  ),
  coalesce: on("let the kernel cut up and join datagrams; needs the source tree, see above"),
  json: on("print the result as JSON"),
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
  bench: {
    words: "",
    help: "put a load on the daemon and print requests a second and latencies",
    details:
      "Each sender works on blocks of its own, between 1 and 64 of them, and checks every byte that " +
      "it reads. Of sizes from 16-1024 each is equally likely, of log:16-1024 each doubling is. " +
      "--mix takes realloc, cas and add, too. " +
      "With --rate, latency counts from when a request was due, also if --in-flight held it back; " +
      "a rate that was not reached is said so on stderr. " +
      "--coalesce (UDP_SEGMENT, UDP_GRO) calls libc, for which the executable has no permission: " +
      "deno run -P=client --allow-ffi=PATH client.ts bench, with the path of libc. " +
      "Exit code 1 if anything was lost or wrong.",
    flags: BENCH_FLAGS,
    example: "mallocd-client bench --in-flight 8 --per-datagram 32 --mix read=1",
  },
  shell: {
    words: "",
    help: "look around with a line editor and variables: p = malloc 64",
    details:
      "Every command works without the program's name; NAME = COMMAND keeps what it prints, $NAME " +
      "gives it back. Quotes keep blanks, and write does without LEN. vars lists the variables, help " +
      "the commands; exit or Ctrl-D leaves.",
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
