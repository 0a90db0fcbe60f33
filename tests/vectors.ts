/** docs/vectors.json, whose head tells what its vectors mean, for whoever can ask a daemon. */

import { assert, assertEquals } from "@std/assert";
import file from "../docs/vectors.json" with { type: "json" };
import { HEAP_BASE } from "../lib/heap/heap.ts";

export type Exchange = [request: string, reply: string | null];

export interface Vector {
  name: string;
  strict?: boolean;
  before?: Exchange[];
  request: string;
  reply: string | null;
  after?: Exchange[];
}

/** JSON says neither that an exchange has two members nor which texts are there. */
const VECTORS = file.vectors as unknown as Vector[];

/** For a daemon that has procedures. */
export const PROCEDURE_VECTORS = file.procedures as unknown as Vector[];

/** From another host. */
export const UNPROVEN_VECTORS = file.unproven as unknown as Vector[];

/** For a daemon with a quota of so many bytes. */
export const QUOTA = 4096;
export const QUOTA_VECTORS = file.quota as unknown as Vector[];

/** For a daemon that has range 0 of three, the last of which belongs to this one. */
export const OTHER = { range: 2, hostname: "192.0.2.2", port: 8081 };
export const CLUSTER_VECTORS = file.cluster as unknown as Vector[];

/** Bytes of the heap that they are tried on. */
export const SIZE = 1024 * 1024;

/** Sends a datagram in hex; the result is the reply, "" for an empty one, undefined for none. */
export type Ask = (request: string) => string | undefined | Promise<string | undefined>;

export function vectorsFor(strict: boolean): Vector[] {
  return VECTORS.filter((vector) => (vector.strict ?? strict) === strict);
}

/** Tries a vector. Throws an AssertionError if a reply is not what it says. */
export async function pass({ name, before = [], request, reply, after = [] }: Vector, ask: Ask) {
  const base = BigInt(HEAP_BASE);
  const names = new Map([["base", base], ["size", BigInt(SIZE)], ["end", base + BigInt(SIZE)]]);
  for (const [sent, expected] of [...before, [request, reply] as const, ...after]) {
    const answer = await ask(fill(sent, names)) ?? null;
    const match = expected !== null && answer !== null && pattern(expected, names).exec(answer);
    if (!match) assertEquals(answer, expected, `${name}: ${sent}`);
    else for (const key in match.groups) names.set(key, BigInt("0x" + match.groups[key]));
  }
}

/** A request in hex. */
function fill(text: string, names: ReadonlyMap<string, bigint>): string {
  return text
    .replace(/\(([^()]*)\)\*(\d+)/g, (_, group: string, times) => group.repeat(Number(times)))
    .replace(/\$(\w+)([+-]\d+)?/g, (_, name: string, offset = "0") => {
      const value = names.get(name);
      return value === undefined
        ? `(?<${name}>.{16})`
        : (value + BigInt(offset)).toString(16).padStart(16, "0");
    })
    .replaceAll(" ", "");
}

/** A reply: names that are not known yet and ".." make it a pattern, repetitions keep it short. */
function pattern(text: string, names: ReadonlyMap<string, bigint>): RegExp {
  return new RegExp(`^${fill(text.replace(/\*(\d+)/g, "{$1}"), names)}$`);
}

/** free(1), a refusal that is told after everything that was sent before it, in a cluster, too. */
const FENCE = "ffffffff00000101" + "1".padStart(16, "0");
const FENCE_REPLY = /^ffffffff....81010{16}$/;

/** Sends a datagram in hex over a socket; the result is the reply, undefined for none. */
export async function askOver(
  socket: Deno.DatagramConn,
  address: { hostname: string; port: number },
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
