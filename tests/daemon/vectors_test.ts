/** docs/vectors.json against the service in memory, and against a daemon of this process over a socket. */

import { assert, assertEquals } from "@std/assert";
import { Counter, type Counters, COUNTERS_LENGTH } from "../../lib/daemon/counters.ts";
import type { Engine } from "../../lib/daemon/engine.ts";
import { type EngineName, startEngine } from "../../lib/daemon/engines/choice.ts";
import { Unavailable } from "../../lib/system/libc.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { Refusal } from "../../lib/daemon/refusal.ts";
import { NO_SOCKETS } from "../sockets.ts";
import { Box, newOptions } from "../testing.ts";
import { pass, SIZE, vectorsFor } from "../vectors.ts";

/** A real daemon of this process. */
async function withDaemon(
  name: EngineName,
  strict: boolean,
  use: (engine: Engine) => Promise<void>,
) {
  const { engine } = await startEngine(name, newOptions({ memory: SIZE, strict }));
  try {
    await use(engine);
  } finally {
    await engine.close();
  }
}

/** A hello, which is answered after everything that was sent before it. */
const FENCE = "ffffffff00000107";
const FENCE_REPLY = /^ffffffff00008107.{96}$/;

async function askOver(
  socket: Deno.DatagramConn,
  address: Engine["address"],
  request: string,
): Promise<string | undefined> {
  const receive = async () => (await socket.receive())[0].toHex();
  for (const hex of [request, FENCE]) {
    await socket.send(Uint8Array.fromHex(hex), { transport: "udp", ...address });
  }
  const reply = await receive();
  if (FENCE_REPLY.test(reply)) return undefined;
  const fence = await receive();
  assert(FENCE_REPLY.test(fence), `a second reply to ${request}: ${fence}`);
  return reply;
}

function nameOf(strict: boolean): string {
  return strict ? "a strict daemon" : "a daemon";
}

Deno.test("docs/vectors.json shows every method, refusal and repeat, and frees all", async () => {
  const total: Counters = new Float64Array(COUNTERS_LENGTH);
  for (const strict of [false, true]) {
    const box = new Box({ size: SIZE, strict });
    const { counters } = box.service;
    for (const vector of vectorsFor(strict)) {
      await pass(vector, (request) => box.ask(request));
      assertEquals(box.count("blocks"), 0, `${vector.name}: leaves blocks allocated`);
    }
    counters.forEach((count, i) => total[i]! += count);
  }
  for (const [name, { opcode }] of Object.entries(METHODS)) {
    assert(total[Counter.requests + opcode]! > 0, `no vector has a ${name}`);
  }
  for (const [name, refusal] of Object.entries(Refusal)) {
    // Who tries the vectors is on loopback, asks for little, and of a daemon that is alone.
    const exempt = ["none", "unproven", "overBudget", "overQuota", "otherRange"].includes(name);
    assert(total[Counter.refused + refusal]! > 0 || exempt, `no vector is refused: ${name}`);
  }
  assert(total[Counter.replays]! > 0, "no vector has a repeat");
});

const ENGINES: readonly EngineName[] = ["datagram", "syscall"];

for (const name of ENGINES) {
  const noEngine = await whyNoEngine(name);
  for (const strict of [false, true]) {
    const daemon = `${nameOf(strict)} with the engine ${name}`;
    Deno.test({
      name: `docs/vectors.json is what ${daemon} does over a socket${noEngine}`,
      ignore: noEngine !== "",
      fn: () =>
        withDaemon(name, strict, async ({ address }) => {
          const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
          try {
            for (const vector of vectorsFor(strict)) {
              await pass(vector, (request) => askOver(socket, address, request));
            }
          } finally {
            socket.close();
          }
        }),
    });
  }
}

/** Empty if the engine can be had here. */
async function whyNoEngine(name: EngineName): Promise<string> {
  if (NO_SOCKETS !== "") return NO_SOCKETS;
  try {
    await withDaemon(name, false, () => Promise.resolve());
    return "";
  } catch (error) {
    if (error instanceof Unavailable) return ` (${error.message})`;
    throw error;
  }
}
