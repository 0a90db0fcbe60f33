/**
 * Round trips over loopback, with the classic protocol as the clients of the paper speak it and with the
 * tagged one, beside a bare UDP echo server in Deno, which does nothing else.
 *
 *     deno run -P=bench bench/roundtrip.ts [--smoke] [ENGINE]
 */

import { encodeRequest, FIELD, type MethodName } from "../lib/protocol/wire.ts";
import { HOST, medians, Prober, rate, type Server, startMallocd, startServer } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const ECHO = "--echo";
const LENGTH = 20;
const MANY = 32;

async function echo(): Promise<void> {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: HOST, port: 0 });
  console.log(`${HOST}:${(socket.addr as Deno.NetAddr).port}`);
  const buffer = new Uint8Array(2048);
  while (true) {
    const [datagram, from] = await socket.receive(buffer);
    await socket.send(datagram, from);
  }
}

function request(method: MethodName, fields: bigint[], options = {}): Uint8Array {
  const view = new DataView(new ArrayBuffer(128));
  return new Uint8Array(view.buffer, 0, encodeRequest(view, 0, method, fields, options));
}

/** The loop of the original's clients: malloc, write, read, free, of which two are answered. */
async function sessions(server: Server, ms: number): Promise<number> {
  using prober = new Prober(server);
  const malloc = request("malloc", [BigInt(LENGTH)]);
  const write = request("write", [0n, BigInt(LENGTH)], { data: new Uint8Array(LENGTH) });
  const read = request("read", [0n, BigInt(LENGTH)]);
  const free = request("free", [0n]);
  return await rate(ms, async () => {
    const pointer = await prober.ask(malloc);
    for (const request of [write, read, free]) request.set(pointer, FIELD);
    await prober.send(write);
    await prober.ask(read);
    await prober.send(free);
  });
}

async function main(engine: string, rounds: number, ms: number): Promise<void> {
  const args = ["--unstable-net", `--allow-net=${HOST}`, "bench/roundtrip.ts", ECHO];
  await using echoServer = await startServer(args, "stdout");
  await using daemon = await startMallocd(engine);
  using prober = new Prober(daemon);
  const pointer = new DataView((await prober.ask(request("malloc", [64n]))).slice().buffer)
    .getBigUint64(0);
  const classic = request("read", [pointer, BigInt(LENGTH)]);
  const tagged = request("read", [pointer, BigInt(LENGTH)], { tag: 1 });

  const probe = async (server: Server, bytes: Uint8Array, inFlight: number) => {
    using prober = new Prober(server);
    return await prober.rate(bytes, inFlight, ms);
  };
  const rows: Record<string, () => Promise<number>> = {
    "echo": () => probe(echoServer, classic, 1),
    "classic read": () => probe(daemon, classic, 1),
    "tagged read": () => probe(daemon, tagged, 1),
    "classic malloc, write, read, free": async () => 2 * await sessions(daemon, ms),
    [`echo, ${MANY} in flight`]: () => probe(echoServer, classic, MANY),
    [`classic read, ${MANY} in flight`]: () => probe(daemon, classic, MANY),
    [`tagged read, ${MANY} in flight`]: () => probe(daemon, tagged, MANY),
  };
  const names = Object.keys(rows);
  const results = await medians(rounds, Object.values(rows));
  printTable([
    [`round trips, ${engine} engine`, "a second", "microseconds", "times echo"],
    ...results.map((result, i) => {
      const isMany = names[i]!.includes("in flight");
      const echo = results[isMany ? names.indexOf(`echo, ${MANY} in flight`) : 0]!;
      const time = isMany ? "" : (1e6 / result).toFixed(1);
      return [names[i]!, grouped(Math.round(result)), time, ratio(result / echo)];
    }),
  ]);
}

if (import.meta.main) {
  const isSmoke = Deno.args.includes("--smoke");
  const [engine = "datagram"] = Deno.args.filter((word) => !word.startsWith("--"));
  if (Deno.args.includes(ECHO)) await echo();
  else await (isSmoke ? main(engine, 1, 10) : main(engine, 5, 500));
}
