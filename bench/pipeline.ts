/**
 * What it is worth to put many requests into a datagram: 32 tagged reads of 64 bytes in each, beside one
 * classic read in each, of the same daemon.
 *
 *     deno run -P=bench bench/pipeline.ts [--smoke] [ENGINE]
 */

import { encodeRequest } from "../lib/protocol/wire.ts";
import { Remote } from "../lib/client/remote.ts";
import { HOST, medians, Prober, rate, startMallocd } from "./prober.ts";
import { grouped, printTable, ratio } from "./table.ts";

const LENGTH = 64;
const PER_DATAGRAM = 32;
const IN_FLIGHT = 8;

async function main(engine: string, rounds: number, ms: number): Promise<void> {
  await using daemon = await startMallocd(engine);
  await using remote = await Remote.connect({ server: `${HOST}:${daemon.port}` });
  const pointer = await remote.malloc(PER_DATAGRAM * LENGTH);

  const view = new DataView(new ArrayBuffer(4096));
  const classicLength = encodeRequest(view, 0, "read", [pointer, BigInt(LENGTH)]);
  const classic = new Uint8Array(view.buffer.slice(0, classicLength));
  let length = 0;
  for (let tag = 0; tag < PER_DATAGRAM; tag++) {
    const fields = [pointer + BigInt(tag * LENGTH), BigInt(LENGTH)];
    length += encodeRequest(view, length, "read", fields, { tag });
  }
  const tagged = new Uint8Array(view.buffer.slice(0, length));

  const probe = async (request: Uint8Array, inFlight: number) => {
    using prober = new Prober(daemon);
    return await prober.rate(request, inFlight, ms);
  };
  const remoteRead = () => remote.read(pointer, LENGTH);
  const rows: Record<string, () => Promise<number>> = {
    "classic, 1 read a datagram, 1 in flight": () => probe(classic, 1),
    [`classic, 1 read a datagram, ${IN_FLIGHT} in flight`]: () => probe(classic, IN_FLIGHT),
    [`tagged, ${PER_DATAGRAM} reads a datagram, ${IN_FLIGHT} in flight`]: async () =>
      PER_DATAGRAM * await probe(tagged, IN_FLIGHT),
    "Remote, 1 read at a time": () => rate(ms, async () => void await remoteRead()),
    [`Remote, ${PER_DATAGRAM * IN_FLIGHT} reads at a time`]: async () => {
      const batch = () => Promise.all(Array.from({ length: PER_DATAGRAM * IN_FLIGHT }, remoteRead));
      return PER_DATAGRAM * IN_FLIGHT * await rate(ms, async () => void await batch());
    },
  };
  const [one, eight, ...others] = await medians(rounds, Object.values(rows));
  printTable([
    [`${LENGTH}-byte reads, ${engine} engine`, "a second", "times row 1", "times row 2"],
    ...[one!, eight!, ...others].map((result, i) => [
      Object.keys(rows)[i]!,
      grouped(Math.round(result)),
      ratio(result / one!),
      ratio(result / eight!),
    ]),
  ]);
}

if (import.meta.main) {
  const isSmoke = Deno.args.includes("--smoke");
  const [engine = "datagram"] = Deno.args.filter((word) => !word.startsWith("--"));
  await (isSmoke ? main(engine, 1, 10) : main(engine, 5, 500));
}
