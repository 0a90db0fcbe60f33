/** The flags of mallocd. */

import { DEFAULT_RECEIVE_BUFFER, DEFAULT_SPIN } from "./engine.ts";
import { ENGINE_NAMES, type EngineName } from "./engines/choice.ts";
import {
  type Command,
  count,
  duration,
  type Flag,
  HELP_FLAGS,
  MISUSED,
  on,
  oneOf,
  optional,
  type Program,
  size,
  text,
} from "../cli/flags.ts";
import { formatSize } from "../cli/sizes.ts";
import { GRAIN, MAX_HEAP, MAX_RANGES, MIN_HEAP } from "../heap/heap.ts";
import { DEFAULT_PORT } from "../protocol/wire.ts";
import { DEFAULT_ENTRIES, MAX_ENTRIES } from "./duplicate_request_cache.ts";
import { parseCidr } from "./admission.ts";
import { type Node, parseNode } from "./cluster/node.ts";
import { DEFAULT_FUEL, MAX_FUEL } from "./procedures/limits.ts";

function networks(placeholder: string, help: string): Flag<readonly string[] | undefined> {
  const parse = (value: string) => {
    const blocks = value.split(",").map((block) => block.trim());
    const bad = blocks.find((block) => parseCidr(block) === undefined);
    if (bad !== undefined) throw `networks as 192.168.0.0/24,fd00::/8 (${bad} is none)`;
    return blocks;
  };
  return { placeholder, help, parse };
}

function nodes(placeholder: string, help: string): Flag<readonly Node[]> {
  const parse = (value: string) =>
    value.split(",").map((text) => {
      const node = parseNode(text.trim());
      if (node === undefined) throw `nodes as 10.0.0.1:6379,[fd00::1]:6379 (${text} is none)`;
      return node;
    });
  return { placeholder, help, parse };
}

function range(placeholder: string, help: string): Flag<number | "auto"> {
  const parse = (value: string) => {
    const number = Number(value);
    if (value === "auto") return value;
    if (!/^\d+$/.test(value) || number >= MAX_RANGES) {
      throw `auto, or a whole number from 0 to ${MAX_RANGES - 1}`;
    }
    return number;
  };
  return { placeholder, help, parse };
}

/** It is renewed three times as often, by a round trip to the cluster; in whole milliseconds, for Redis. */
function leaseTime(placeholder: string, standard: string, help: string): Flag<number> {
  const { parse: parseTime, ...flag } = duration(placeholder, standard, LONGEST_LEASE_MS, help);
  const parse = (value: string) => {
    const ms = Math.round(parseTime(value));
    if (ms < SHORTEST_LEASE_MS) throw "a time from 500ms to 600s";
    return ms;
  };
  return { ...flag, parse };
}

const [SHORTEST_LEASE_MS, LONGEST_LEASE_MS] = [500, 600_000];

/** Where to listen: `9100`, `:9100`, `10.0.0.1:9100`, `[::1]:9100`. */
function listener(placeholder: string, help: string): Flag<Listener> {
  const parse = (value: string) => {
    const match = /^(?:(.+):|:)?(\d{1,5})$/.exec(value);
    const port = Number(match?.[2]);
    const host = match?.[1] ?? "127.0.0.1";
    const hostname = host.replace(/^\[(.+)\]$/, "$1");
    const isBare = hostname.includes(":") && hostname === host;
    if (match === null || port > 65535 || isBare) {
      throw "a port, or an address and a port as 127.0.0.1:9100 or [::1]:9100";
    }
    return { hostname: hostname === "localhost" ? "127.0.0.1" : hostname, port };
  };
  return { placeholder, help, parse };
}

/** An address, as text and without brackets, and a port. */
export interface Listener {
  readonly hostname: string;
  readonly port: number;
}

function hostNames(placeholder: string, help: string): Flag<readonly string[]> {
  const parse = (value: string) => {
    const names = value.toLowerCase().split(",").map((name) => name.trim());
    const bad = names.find((name) => !/^[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?$/.test(name));
    if (bad !== undefined) throw `host names as heap.example,mallocd (${bad} is none)`;
    return names;
  };
  return { placeholder, help, parse };
}

export const DAEMON_FLAGS = {
  host: text("ADDR", "127.0.0.1", "address to listen on"),
  port: count("PORT", DEFAULT_PORT, [0, 65535], "UDP port to listen on; 0 picks a free one"),
  memory: size("SIZE", "1GiB", [MIN_HEAP, MAX_HEAP, GRAIN], "size of the heap"),
  engine: oneOf(
    "NAME",
    "auto",
    ENGINE_NAMES,
    "how datagrams are moved: auto, datagram, syscall or quic",
  ),
  allow: networks("CIDR,...", "answer only these networks; needed where --host is no loopback"),
  anyone: on("answer everybody who can reach the socket"),
  quota: optional(size("SIZE", "", [GRAIN, MAX_HEAP, 1], "the most that one address may hold")),
  unvalidated: on("answer at any length who has not proven its address"),
  "low-ports": on("answer senders with a port below 1024"),
  cert: optional(
    text("FILE", "", "certificate in PEM, and those between it and the CA (quic engine)"),
  ),
  key: optional(text("FILE", "", "its private key in PEM (quic engine)")),
  "token-file": optional(text("FILE", "", "serve who knows a line of this file (quic engine)")),
  cluster: optional(nodes("NODE,...", "keep a log in this Redis or Valkey Cluster")),
  range: optional(range("N|auto", "which range of addresses to have in the cluster")),
  copies: count("N", 2, [1, 6], "nodes of the cluster that must have what is acknowledged"),
  lease: leaseTime("TIME", "3s", "how long a range is ours after the cluster said so"),
  standby: on("follow the owner of the range, and take its place when it fails"),
  trim: size("SIZE", "64MiB", [1, 2 ** 40, 1], "log after which a standby makes a snapshot"),
  "cluster-ca": optional(
    text("FILE", "", "certificate that vouches for it: use TLS"),
  ),
  "cluster-user": optional(text("FILE", "", "file with user and password for it")),
  "heap-file": optional(
    text("PATH", "", "keep the heap in this file, and go on with what is in it"),
  ),
  sync: count("SECONDS", 10, [0, 86_400], "how often the file is brought to the disk; 0 for never"),
  snapshot: count("SECONDS", 0, [0, 86_400], "how often PATH.snapshot is made; 0 for on request"),
  sparse: on("reserve no room on the disk for the file"),
  verify: on("look through all of the file for faults before serving"),
  strict: on("refuse reads and writes that are not inside one live allocation"),
  procedures: on("let clients install WebAssembly and run it in the heap"),
  fuel: count("N", DEFAULT_FUEL, [1, MAX_FUEL], "what a call of it may take, in instructions"),
  "replay-cache": count("N", DEFAULT_ENTRIES, [1, MAX_ENTRIES], "replies remembered for repeats"),
  "receive-buffer": size(
    "SIZE",
    formatSize(DEFAULT_RECEIVE_BUFFER),
    [4096, 2 ** 30, 1],
    "room in the kernel for datagrams that wait (syscall engine)",
  ),
  spin: count("N", DEFAULT_SPIN, [0, 1_000_000], "tries before it sleeps (syscall engine)"),
  "huge-pages": on("let the heap lie in pages of 2 MiB (syscall engine)"),
  http: optional(listener("[ADDR:]PORT", "serve a map of the heap, /metrics and /healthz by HTTP")),
  "http-names": optional(hostNames("NAME,...", "host names by which --http may be asked")),
  check: on("see whether it could serve with these options, and exit"),
  quiet: on("print errors only"),
  "log-json": on("print objects of JSON, one a line"),
  ...HELP_FLAGS,
} as const;

/** The flags that mean nothing without another one. */
export const NEEDS = {
  range: "cluster",
  copies: "cluster",
  lease: "cluster",
  standby: "cluster",
  trim: "cluster",
  "cluster-ca": "cluster",
  "cluster-user": "cluster",
  sync: "heap-file",
  snapshot: "heap-file",
  sparse: "heap-file",
  verify: "heap-file",
  fuel: "procedures",
  "http-names": "http",
} as const satisfies Partial<Record<keyof typeof DAEMON_FLAGS, keyof typeof DAEMON_FLAGS>>;

/** The engines that know a flag which not all of them know; the first of them is the one to propose. */
export const KNOWN_BY = {
  "heap-file": ["syscall", "auto"],
  "huge-pages": ["syscall", "auto"],
  "receive-buffer": ["syscall", "auto"],
  spin: ["syscall", "auto"],
  cert: ["quic"],
  key: ["quic"],
  "token-file": ["quic"],
  unvalidated: ["auto", "datagram", "syscall", "cluster"],
} as const satisfies Partial<
  Record<keyof typeof DAEMON_FLAGS, readonly (EngineName | "cluster")[]>
>;

const COMMANDS: Readonly<Record<string, Command>> = {
  audit: {
    words: "FILE",
    help: "look through a heap file whose daemon has ended, and name its first fault",
    example: "mallocd audit /var/lib/mallocd/heap",
  },
  help: { words: "[COMMAND]", help: "explain a command, or all", example: "mallocd help audit" },
  version: { words: "", help: "print the version", example: "mallocd version" },
};

export const DAEMON: Program = {
  name: "mallocd",
  summary: "malloc(3) for anyone on a socket",
  description:
    "mallocd is a daemon that lets clients on a UDP socket allocate, free, read and write " +
    "memory: four verbs, every field 64 bits wide and big-endian, and no garbage collection while " +
    "it serves. All clients share one heap, and there is no authentication but that of the quic engine.",
  flags: DAEMON_FLAGS,
  commands: COMMANDS,
  runsAlone: true,
  examples: [
    "mallocd",
    "mallocd --memory 4GiB --strict",
    "mallocd --host 192.168.0.1 --allow 192.168.0.0/24",
    "mallocd --heap-file /var/lib/mallocd/heap",
    "mallocd audit /var/lib/mallocd/heap",
  ],
  exitStatus: [
    ["0", "It was told to end by a signal, or did what its command says."],
    ["1", "It could not start or go on, or a fault was found; standard error says which."],
    MISUSED,
  ],
  signals: [
    [
      "SIGINT, SIGTERM",
      "It receives no more, sends the replies that are due, prints the totals and ends.",
    ],
    ["SIGUSR1", "It prints the totals and goes on."],
    ["SIGHUP", "It reads certificate, key and tokens again (quic engine)."],
  ],
  section: 8,
  seeAlso: [["mallocd-client", 1], ["malloc", 3], ["udp", 7]],
};
