/** A daemon for tests of its clients: the real service behind a real socket of the loopback interface. */

import { Counter, type FamilyName, sumOf } from "../lib/daemon/counters.ts";
import { serveDatagram } from "../lib/daemon/engines/datagram.ts";
import { Gauges } from "../lib/daemon/gauges.ts";
import { type MethodName, METHODS } from "../lib/protocol/wire.ts";
import { newOptions } from "./testing.ts";

export interface DaemonOptions {
  hostname?: string;
  port?: number;
  memory?: number;
  strict?: boolean;
  /** What a call of a procedure may use up; there are none if it is left out. */
  fuel?: number;
}

export interface Daemon extends AsyncDisposable {
  readonly server: string;
  /** What the daemon counts, now. */
  count(name: FamilyName): number;
  /** How many requests of a method it has executed. */
  requests(method: MethodName): number;
}

export async function startDaemon(
  { hostname = "127.0.0.1", port = 0, memory = 16 * 1024 ** 2, strict = false, fuel }:
    DaemonOptions = {},
): Promise<Daemon> {
  const options = newOptions({ hostname, port, memory, strict, fuel, replayCache: 65536 });
  const { counters } = options.state.service;
  const gauges = new Gauges(options, options.state);
  const engine = await serveDatagram(options);
  const host = hostname.includes(":") ? `[${hostname}]` : hostname;
  return {
    server: `${host}:${engine.address.port}`,
    count(name) {
      gauges.refresh();
      return sumOf(counters, name);
    },
    requests: (method) => counters[Counter.requests + METHODS[method].opcode]!,
    [Symbol.asyncDispose]: () => engine.close(),
  };
}
