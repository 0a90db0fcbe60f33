/** docs/vectors.json against the service in memory, and against a daemon of this process over a socket. */

import { assert, assertEquals } from "@std/assert";
import { Counter, type Counters, COUNTERS_LENGTH } from "../../lib/daemon/counters.ts";
import type { Engine } from "../../lib/daemon/engine.ts";
import { type EngineName, startEngine } from "../../lib/daemon/engines/choice.ts";
import { Unavailable } from "../../lib/system/libc.ts";
import { Membership } from "../../lib/daemon/cluster/membership.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { Refusal } from "../../lib/daemon/refusal.ts";
import { NO_SOCKETS } from "../sockets.ts";
import { Box, newOptions } from "../testing.ts";
import {
  askOver,
  CLUSTER_VECTORS,
  OTHER,
  pass,
  PROCEDURE_VECTORS,
  QUOTA,
  QUOTA_VECTORS,
  SIZE,
  UNPROVEN_VECTORS,
  type Vector,
  vectorsFor,
} from "../vectors.ts";

/** A real daemon of this process. */
async function withDaemon(
  name: EngineName,
  options: Daemon["options"],
  use: (engine: Engine) => Promise<void>,
) {
  const { engine } = await startEngine(name, newOptions({ memory: SIZE, ...options }));
  try {
    await use(engine);
  } finally {
    await engine.close();
  }
}

interface Daemon {
  what: string;
  options: { strict?: boolean; fuel?: number; quota?: number };
  vectors: Vector[];
  /** Whom it knows in its cluster. */
  membership?: Membership;
  /** Where the requests come from, if that is not loopback. */
  from?: string;
}

const DAEMONS: Daemon[] = [
  { what: "a daemon", options: {}, vectors: vectorsFor(false) },
  { what: "a strict daemon", options: { strict: true }, vectors: vectorsFor(true) },
  { what: "a daemon with procedures", options: { fuel: 1000 }, vectors: PROCEDURE_VECTORS },
  { what: "a daemon elsewhere", options: {}, vectors: UNPROVEN_VECTORS, from: "192.0.2.1" },
  { what: "a daemon with a quota", options: { quota: QUOTA }, vectors: QUOTA_VECTORS },
  { what: "a member", options: {}, vectors: CLUSTER_VECTORS, membership: newMembership() },
];

/** What this process can be; a member of a cluster is tried in tests/cluster. */
const OVER_SOCKETS = DAEMONS.filter(({ from, membership }) =>
  from === undefined && membership === undefined
);

function newMembership(): Membership {
  const membership = new Membership(0);
  membership.setOwner(OTHER.range, OTHER.hostname, OTHER.port);
  return membership;
}

Deno.test("docs/vectors.json shows every method, refusal and repeat, and frees all", async () => {
  const total: Counters = new Float64Array(COUNTERS_LENGTH);
  for (const { options, vectors, membership, from = "127.0.0.1" } of DAEMONS) {
    const box = new Box({ size: SIZE, membership, ...options });
    box.from(from, 40000);
    const { counters } = box.service;
    const before = box.heap.buddy.liveBlocks;
    for (const vector of vectors) {
      await pass(vector, (request) => box.ask(request));
      const { liveBlocks } = box.heap.buddy;
      assertEquals(liveBlocks, before, `${vector.name}: leaves blocks allocated`);
    }
    counters.forEach((count, i) => total[i]! += count);
  }
  for (const [name, { opcode }] of Object.entries(METHODS)) {
    assert(total[Counter.requests + opcode]! > 0, `no vector has a ${name}`);
  }
  for (const [name, refusal] of Object.entries(Refusal)) {
    // Neither to install 65 modules nor to fill a disk is for a vector.
    const exempt = ["none", "tooManyProcedures", "diskFull", "diskFailed"].includes(name);
    assert(total[Counter.refused + refusal]! > 0 || exempt, `no vector is refused: ${name}`);
  }
  assert(total[Counter.replays]! > 0, "no vector has a repeat");
});

const ENGINES: readonly EngineName[] = ["datagram", "syscall"];

for (const name of ENGINES) {
  const noEngine = await whyNoEngine(name);
  for (const { what, options, vectors } of OVER_SOCKETS) {
    const daemon = `${what} with the engine ${name}`;
    Deno.test({
      name: `docs/vectors.json is what ${daemon} does over a socket${noEngine}`,
      ignore: noEngine !== "",
      fn: () =>
        withDaemon(name, options, async ({ address }) => {
          const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
          try {
            for (const vector of vectors) {
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
    await withDaemon(name, {}, () => Promise.resolve());
    return "";
  } catch (error) {
    if (error instanceof Unavailable) return ` (${error.message})`;
    throw error;
  }
}
