/** What was found, as rows of tables, and as docs/benchmarks.md. */

import { grouped, ratio } from "../table.ts";
import { type Claim, CLAIMS, type Load, LOADS, PIPELINE } from "./loads.ts";
import { median, type Results } from "./measurement.ts";
import type { Server } from "./servers.ts";

type Rows = readonly (readonly string[])[];

/** By load and server, the median of the requests a second. */
export function rateRows(results: Results, servers: readonly Server[]): Rows {
  const keys = Object.keys(LOADS) as (keyof typeof LOADS)[];
  const rows = keys.map((load) => {
    const cells = servers.map(({ key }) => {
      const rates = results.of(load, key).map(({ rate }) => rate);
      return rates.length === 0 ? "" : grouped(Math.round(median(rates)));
    });
    return [LOADS[load].title, ...cells];
  });
  return [["Requests a second", ...servers.map(({ name }) => name)], ...rows];
}

/** Each claim: the median of its ratio, the range of it, and what it ought to be. */
export function claimRows(results: Results): Rows {
  const rows = CLAIMS.flatMap((claim) => {
    const ratios = results.ratios(claim);
    if (ratios.length === 0) return [];
    const range = `${ratio(Math.min(...ratios))} to ${ratio(Math.max(...ratios))}`;
    return [[claim.text, ratio(median(ratios)), range, target(claim), verdict(claim, ratios)]];
  });
  return [["Comparison", "Ratio", "Range", "Wanted", "Met"], ...rows];
}

function target({ atLeast, atMost }: Claim): string {
  if (atLeast === undefined && atMost === undefined) return "";
  return atMost === undefined ? `at least ${atLeast}` : `at most ${atMost}`;
}

function verdict(claim: Claim, ratios: readonly number[]): string {
  if (target(claim) === "") return "";
  const { atLeast = 0, atMost = Infinity } = claim;
  const times = median(ratios);
  return times >= atLeast && times <= atMost ? "yes" : "no";
}

/** Half load: the median of each server's latency percentiles. */
export function latencyRows(results: Results, servers: readonly Server[]): Rows {
  const rows = servers.flatMap(({ key, name }) => {
    const measured = results.of("half", key);
    if (measured.length === 0) return [];
    const cells = (["p50", "p90", "p99", "p99.9"] as const).map((percentile) =>
      median(measured.map(({ latency }) => latency![percentile])).toFixed(1)
    );
    return [[name, ...cells]];
  });
  return [["Latency in microseconds", "p50", "p90", "p99", "p99.9"], ...rows];
}

/** In Markdown; the first column is flush left, the others flush right, unless they are words. */
function table(rows: Rows, others: "---:" | "---" = "---:"): string {
  const [head, ...body] = rows;
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |\n`;
  const ruler = head!.map((_, column) => column === 0 ? "---" : others);
  return [line(head!), line(ruler), ...body.map(line)].join("");
}

export interface Findings {
  readonly results: Results;
  readonly servers: readonly Server[];
  readonly machine: Rows;
  /** What was put before the command line of each server. */
  readonly prefix: string;
  /** Requests a second of the load under which latencies are compared. */
  readonly halfRate: number;
  readonly rounds: number;
  readonly seconds: number;
}

/** The heading from which on the file is not what was found here, and stays. */
export const OTHER_BENCHES = "## Other benches";

export function document(findings: Findings): string {
  const { results, servers, machine, prefix, halfRate, rounds, seconds } = findings;
  const cores = prefix === ""
    ? "share all cores"
    : `run under \`${prefix}\`, the clients on the last core`;
  const loads: Load[] = Object.values(LOADS);
  const commands = loads.map(({ title, client = [], stream }) => [
    title,
    `\`${client.join(" ")}\``,
    stream === undefined ? "" : `${stream.connections} × ${stream.pipeline}`,
  ]);
  const versions = servers.map(({ name, version }) => [name, version]);
  return `# Benchmarks

This file, up to "Other benches", and its plots are what \`make bench-compare\` wrote, and nothing in
that is edited by hand.
It takes some minutes, wants a machine with nothing else to do, and leaves out what is not installed.

${table(claimRows(results))}
All of it is about reads of 64 bytes. Every number is the median of ${rounds} rounds of ${seconds} s, in which all
servers were measured in turn; a ratio is the median of the ratios of the rounds.

## Throughput

${table(rateRows(results, servers))}
![Reads a second, by datagrams in flight](throughput.svg)

## Latency

At ${
    grouped(Math.round(halfRate))
  } classic reads a second, half of what the C server does with 32 in flight. They are sent
on time, whether or not replies come, and latency counts from when each was due.

${table(latencyRows(results, servers))}
![Latency, by offered load](latency.svg)

## What is compared

- **syscall** and **datagram** are mallocd's engines, \`--engine syscall\` and \`--engine datagram\`.
- **C** is \`bench/bound.c\`: the classic protocol in the least C that answers it, with recvmmsg and
  sendmmsg and without an allocator. It sleeps when there is nothing to receive.
- **Redis** or **Valkey** answers GETRANGE and **memcached** get, over TCP. Where the others have
  datagrams in flight they have connections, each with one request, or a pipeline of ${PIPELINE}.
- The UDP servers are asked by \`mallocd-client bench\` with the options below. The TCP servers are asked
  by a client that is made alike: one thread, libc's system calls, never asleep while replies are to
  come, every byte compared.
- The servers ${cores}.

${table([["Load", "UDP: options", "TCP: connections × pipeline"], ...commands], "---")}
## The machine

${table([["What", "Which"], ...machine, ...versions], "---")}`;
}
