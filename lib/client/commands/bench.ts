/** mallocd-client bench: how it is called. What it does is in ../bench.ts, which takes time to load. */

import { count, duration, type Flag, type Flags, on, optional } from "../../cli/flags.ts";
import { describe } from "../command.ts";
import { type Mix, parseMix, parseSizes, type Sizes } from "../load/workload.ts";

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
    if (range === undefined) throw "bytes, as 64, 1KiB, 16-1024 or log:16-1KiB";
    return range;
  };
  return { placeholder, default: standard, help, parse };
}

export const BENCH_FLAGS = {
  clients: count("N", 1, [1, 1024], "how many senders there are, each with a port of its own"),
  "in-flight": count("N", 32, [1, 65536], "datagrams that each may have in flight"),
  "per-datagram": count("N", 1, [1, 2048], "requests in each datagram"),
  mix: mixed("METHOD=N,...", "read=70,write=20,malloc=5,free=5", "how often each method is used"),
  size: sizes("BYTES", "64", "size of blocks: 64, or 16-1KiB, or log:16-1KiB"),
  seconds: duration("TIME", "5s", 3_600_000, "how long to measure"),
  rate: optional(
    count("N", 1, [1, 100_000_000], "requests a second, due at fixed times; not on each reply"),
  ),
  coalesce: on("let the kernel cut up and join datagrams; needs the source tree, see above"),
} as const satisfies Flags;

export const bench = describe({
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
});
