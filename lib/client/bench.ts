/** mallocd-client bench: puts a load on a daemon and prints what became of it. */

import { type Flags, UsageError, type Values } from "../cli/flags.ts";
import type { BENCH_FLAGS } from "./commands/bench.ts";
import { isLoopback } from "../system/address.ts";
import { Unavailable } from "../system/libc.ts";
import { DenoWire } from "./load/deno_wire.ts";
import { LibcWire } from "./load/libc_wire.ts";
import { lossOf, problemOf, type Workload } from "./load/workload.ts";
import { latenessOf, type Report, runLoad } from "./load/run.ts";
import { type Wire, WireError } from "./load/wire.ts";
import { parseServer, resolve } from "./transport.ts";
import { type Context, print, rounded, type Terminal } from "./command.ts";

export async function bench(
  context: Context,
  values: Values<Flags>,
): Promise<boolean> {
  const { remote, terminal, timeout } = context;
  const flags = values as Values<typeof BENCH_FLAGS>;
  const { hostname: server, port } = parseServer(remote.server)!;
  const hostname = await resolve(server);
  const workload: Workload = {
    protocol: remote.protocol,
    clients: flags.clients,
    inFlight: flags["in-flight"],
    perDatagram: flags["per-datagram"],
    mix: flags.mix,
    sizes: flags.size,
    rate: flags.rate,
    timeout,
    proves: !isLoopback(hostname),
  };
  const problem = problemOf(workload);
  if (problem !== undefined) {
    throw new UsageError(`bench: ${problem}`, "mallocd-client bench --help tells more");
  }
  const peer: Deno.NetAddr = { transport: "udp", hostname, port };
  const wire = openWire(peer, workload.clients, flags.coalesce, terminal);
  try {
    const report = await runLoad(workload, flags.seconds, { remote, wire, terminal });
    print(context, describe(report), { ...report, seconds: rounded(report.seconds) });
    if (report.shortfall !== undefined) terminal.say(`mallocd-client: bench: ${report.shortfall}`);
    const lateness = latenessOf(report);
    if (lateness !== undefined) terminal.say(`mallocd-client: bench: ${lateness}`);
    if (report.lost > 0) {
      terminal.say(`mallocd-client: bench: ${report.lost} were lost: ${lossOf(workload)}`);
    }
    return report.lost === 0 && report.wrong === 0;
  } finally {
    await wire.close();
  }
}

/** Opens the faster wire of those that can be had here. */
function openWire(
  peer: Deno.NetAddr,
  clients: number,
  coalesce: boolean,
  terminal: Terminal,
): Wire {
  try {
    return tryLibc(peer, clients, coalesce, terminal) ?? new DenoWire(peer, clients);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    throw new UsageError(`bench: ${error.message}`, error.hint);
  }
}

function tryLibc(
  peer: Deno.NetAddr,
  clients: number,
  coalesce: boolean,
  terminal: Terminal,
): Wire | undefined {
  try {
    return new LibcWire(peer, clients, coalesce);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    if (coalesce) throw new UsageError(`--coalesce needs libc: ${error.message}`, "leave it out");
    terminal.say(`mallocd-client: Deno's sockets are used, libc's are faster: ${error.message}`);
    return undefined;
  }
}

function describe(report: Report): string {
  const { requests, seconds, requestsPerSecond, lost, wrong, refused, latency } = report;
  const percentiles = Object.entries(latency).map(([name, us]) => `${name} ${us.toFixed(1)}`);
  return `${requests} requests in ${seconds.toFixed(2)} s, ${requestsPerSecond}/s, ` +
    `${lost} lost, ${wrong} wrong, ${refused} refused\n` +
    `latency in us: ${percentiles.join(", ")}\n`;
}
