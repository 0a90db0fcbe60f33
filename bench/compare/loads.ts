/** The loads that servers are compared under, and what is claimed of the comparison. */

import type { Measurement } from "./measurement.ts";
import type { StreamWorkload } from "./stream_load.ts";

/** One load, as UDP servers and as stream servers get it. */
export interface Load {
  readonly title: string;
  /** Flags of `mallocd-client bench`. */
  readonly client?: readonly string[];
  readonly stream?: Pick<StreamWorkload, "connections" | "pipeline">;
}

export type ServerKey =
  | "syscall"
  | "datagram"
  | "bound"
  | "redis"
  | "redisBenchmark"
  | "memcached";

/** Requests that travel together where requests do. */
export const PIPELINE = 32;

const READS = ["--mix", "read=1", "--size", "64"];
const CLASSIC = ["--classic", ...READS];

export const LOADS = {
  one: {
    title: "1 in flight",
    client: [...CLASSIC, "--in-flight", "1"],
    stream: { connections: 1, pipeline: 1 },
  },
  many: {
    title: "32 in flight",
    client: [...CLASSIC, "--in-flight", "32"],
    stream: { connections: 32, pipeline: 1 },
  },
  coalesced: {
    title: "128 in flight, coalesced by the client's kernel",
    client: [...CLASSIC, "--in-flight", "128", "--coalesce"],
  },
  packed: {
    title: "8 in flight of 32 each",
    client: [...READS, "--in-flight", "8", "--per-datagram", `${PIPELINE}`],
    stream: { connections: 8, pipeline: PIPELINE },
  },
} as const satisfies Record<string, Load>;

/** Classic reads at a fixed rate, sent on time whether or not replies come. */
export function atRate(rate: number): Load {
  return {
    title: `${Math.round(rate)} a second`,
    client: [...CLASSIC, "--in-flight", "128", "--rate", String(Math.round(rate))],
  };
}

/** Datagrams in flight, for the plot of throughput. More would not fit into a default socket buffer. */
export const IN_FLIGHT = [1, 2, 4, 8, 16, 32, 64, 128];

/** Lines of the plot of throughput: a server, and how it is asked. */
export const LINES: readonly { name: string; server: ServerKey; client: readonly string[] }[] = [
  { name: "C", server: "bound", client: CLASSIC },
  { name: "datagram", server: "datagram", client: CLASSIC },
  { name: "syscall", server: "syscall", client: CLASSIC },
  { name: "syscall, coalesced", server: "syscall", client: [...CLASSIC, "--coalesce"] },
  { name: "syscall, 32 a datagram", server: "syscall", client: [...READS, "--per-datagram", "32"] },
];

/** Offered loads for the plot of latencies, as parts of what a server does with 32 in flight. */
export const OFFERED = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9];

export type LoadKey = keyof typeof LOADS | "half";

/** What one server does under one load, compared with what another does. */
export interface Claim {
  readonly text: string;
  readonly of: readonly [LoadKey, ServerKey];
  readonly to: readonly [LoadKey, ServerKey];
  readonly value: (measurement: Measurement) => number;
  readonly atLeast?: number;
  readonly atMost?: number;
}

const rate = (measurement: Measurement) => measurement.rate;

export const CLAIMS: readonly Claim[] = [
  {
    text: "32 in flight: syscall to C",
    of: ["many", "syscall"],
    to: ["many", "bound"],
    value: rate,
    atLeast: 0.95,
  },
  {
    text: "32 in flight: datagram to C",
    of: ["many", "datagram"],
    to: ["many", "bound"],
    value: rate,
    atLeast: 0.4,
  },
  {
    text: "1 in flight: syscall to C, which sleeps in between",
    of: ["one", "syscall"],
    to: ["one", "bound"],
    value: rate,
    atLeast: 1.5,
  },
  {
    text: "Coalesced: syscall to C with 32 in flight and a plain client",
    of: ["coalesced", "syscall"],
    to: ["many", "bound"],
    value: rate,
    atLeast: 10,
  },
  {
    text:
      "32 reads a datagram, 8 in flight: syscall to GETRANGE in pipelines of 32, redis-benchmark",
    of: ["packed", "syscall"],
    to: ["packed", "redisBenchmark"],
    value: rate,
    atLeast: 3,
  },
  {
    text: "The same, Redis being asked by a client like ours",
    of: ["packed", "syscall"],
    to: ["packed", "redis"],
    value: rate,
  },
  {
    text: "p99 latency at half of C's highest rate: syscall to C",
    of: ["half", "syscall"],
    to: ["half", "bound"],
    value: ({ latency }) => latency!.p99,
    atMost: 1.5,
  },
];
