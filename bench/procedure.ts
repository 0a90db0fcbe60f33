/**
 * Stored procedures beside reads from outside: what is found in one round trip, and what in many. A list
 * of 100 nodes, a hash map with two entries for each bucket, and a procedure that does nothing.
 *
 * The keys of the map are random, as real ones scatter: the hash would spread keys in a row evenly over the
 * buckets, and a lookup by reads would take 2.5 round trips where it takes 3.
 *
 *     deno run -P=bench bench/procedure.ts [--smoke] [ENGINE...]
 *
 * `serveCalls` is the service without a socket; a test counts what it leaves to the garbage collector.
 */

import HASH_MAP from "../examples/procedures/hash_map.wasm" with { type: "bytes" };
import LIST from "../examples/procedures/list.wasm" with { type: "bytes" };
import { DEFAULT_ENTRIES } from "../lib/daemon/duplicate_request_cache.ts";
import { DEFAULT_FUEL, RESERVED } from "../lib/daemon/procedures/limits.ts";
import { Procedures } from "../lib/daemon/procedures/procedures.ts";
import { encodeRequest, FIELD, type MethodName, REPLY_HEAD } from "../lib/protocol/wire.ts";
import { Heap, HEAP_BASE, newHeapMemory } from "../lib/heap/heap.ts";
import { HOST, type Server, startMallocd } from "./prober.ts";
import { newState } from "../lib/daemon/state.ts";
import { printTable, ratio } from "./table.ts";
import { Random } from "../tests/testing.ts";
import { Remote } from "../lib/client/remote.ts";
import { Service } from "../lib/daemon/service.ts";
import { SOURCE_BYTES, writeSource } from "../lib/system/address.ts";
import {
  Arena,
  Libc,
  SO_RCVTIMEO,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  SOL_SOCKET,
} from "../lib/system/libc.ts";
import {
  CONNECTED,
  Incoming,
  Layout,
  layOutIncoming,
  layOutOutgoing,
  Outgoing,
} from "../lib/system/message.ts";

const HOPS = 100;
const TEXT = 8;
const BUCKETS = 1024;
const KEYS = 2 * BUCKETS;
const SEED = 14;

/** `run` returns 0, and that is all: (func (export "run") (param i32 i32) (result i32) (i32.const 0)). */
const NOTHING = new Uint8Array([
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 7, 1, 0x60, 2, 0x7f, 0x7f, 1, 0x7f, 3, 2, 1, 0],
  ...[7, 7, 1, 3, 0x72, 0x75, 0x6e, 0, 0, 10, 6, 1, 4, 0, 0x41, 0, 0x0b],
]);

const NO_ARGUMENTS = new Uint8Array(0);

/** What is called, and what reads would find. */
interface Scene {
  list: bigint;
  find: bigint;
  map: bigint;
  lookup: bigint;
  /** In the map; the value of each is its place here, from 1 on. */
  keys: readonly bigint[];
  nothing: bigint;
}

function fields(...values: bigint[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(FIELD * values.length));
  values.forEach((value, i) => view.setBigUint64(FIELD * i, value));
  return new Uint8Array(view.buffer);
}

/** A list whose last node is the one with the text of zeros, and a map of random keys. */
async function build(server: Server): Promise<Scene> {
  await using remote = await Remote.connect({ server: `127.0.0.1:${server.port}` });
  const base = remote.hello!.base;
  const list = await remote.malloc(FIELD);
  let next = 0n;
  for (let i = 0; i < HOPS; i++) {
    const node = await remote.malloc(2 * FIELD + TEXT);
    await remote.write(node, fields(next, BigInt(TEXT), BigInt(i)));
    next = node;
  }
  await remote.write(list, fields(next));
  const lookup = await remote.install(HASH_MAP);
  const map = base + await remote.call(lookup, [BigInt(BUCKETS)]);
  const random = new Random(SEED);
  const keys = Array.from(
    { length: KEYS },
    () => BigInt(random.word()) << 32n | BigInt(random.word()),
  );
  for (const [i, key] of keys.entries()) await remote.call(lookup, [map, key, BigInt(i + 1)]);
  return {
    list,
    find: await remote.install(LIST),
    map,
    lookup,
    keys,
    nothing: await remote.install(NOTHING),
  };
}

/** If a reply takes longer, it was lost: struct timeval. */
const PATIENCE = new BigInt64Array([10n, 0n]);

/** Flags of recvmmsg. */
const WAIT = 0;

const LAYOUT = new Layout();
const INCOMING = layOutIncoming(LAYOUT, 1);
const OUTGOING = layOutOutgoing(LAYOUT, 1, 128 * 1024);

/**
 * A client that asks one thing at a time, each with a tag of its own, by system calls of which one sleeps until the
 * reply is there. Deno's sockets do so unless the reply has come by then: then what takes the daemon half a
 * microsecond longer takes ten more, or not, by chance.
 */
class Asker implements Disposable {
  readonly #libc = new Libc();
  readonly #arena = new Arena(this.#libc, LAYOUT.bytes);
  readonly #incoming = new Incoming(this.#libc, this.#arena, INCOMING);
  readonly #outgoing = new Outgoing(this.#libc, this.#arena, OUTGOING, false, new Int32Array(1));
  readonly #socket: number;
  #tag = 0;

  constructor({ port }: Server) {
    const { socket, connect, setsockopt } = this.#libc.symbols;
    const name = new DataView(new ArrayBuffer(SOURCE_BYTES));
    writeSource(name, 0, HOST, port);
    this.#socket = socket(name.getUint16(0, true), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (this.#socket < 0 || connect(this.#socket, name, SOURCE_BYTES) !== 0) {
      throw new Error(`Cannot have a socket (os error ${this.#libc.errno()})`);
    }
    setsockopt(this.#socket, SOL_SOCKET, SO_RCVTIMEO, PATIENCE, PATIENCE.byteLength);
  }

  /** Where the body of the reply begins; the next request overwrites it. */
  ask(method: MethodName, values: bigint[], data?: Uint8Array): number {
    const { view } = this.#arena;
    const options = { tag: ++this.#tag, ...(data && { data }) };
    const length = encodeRequest(view, this.#outgoing.room(), method, values, options);
    this.#outgoing.add(length, this.#socket, CONNECTED);
    this.#outgoing.flush();
    if (this.#incoming.receive(this.#socket, 0, 1, WAIT) <= 0) {
      throw new Error(`No reply to a ${method} (os error ${this.#libc.errno()})`);
    }
    const at = this.#incoming.startOf(0);
    if (view.getUint16(at + 4) === 0) return at + REPLY_HEAD;
    throw new Error(`${method} was refused: ${view.getUint16(at + 4)}`);
  }

  field(at: number): bigint {
    return this.#arena.view.getBigUint64(at);
  }

  /** A field as examples/procedures/hash_map.c has them. */
  littleEndianField(at: number): bigint {
    return this.#arena.view.getBigUint64(at, true);
  }

  littleEndian(at: number): number {
    return this.#arena.view.getUint32(at, true);
  }

  call(handle: bigint, args: Uint8Array): number {
    return Number(this.field(this.ask("call", [handle, BigInt(args.length)], args)));
  }

  [Symbol.dispose](): void {
    this.#libc.symbols.close(this.#socket);
    this.#libc.close();
  }
}

function walkByReads(asker: Asker, { list }: Scene): void {
  let at = asker.field(asker.ask("read", [list, BigInt(FIELD)]));
  for (;;) {
    const node = asker.ask("read", [at, BigInt(2 * FIELD + TEXT)]);
    if (asker.field(node + 2 * FIELD) === 0n) return;
    at = asker.field(node);
  }
}

function walkByCall(asker: Asker, { list, find }: Scene): void {
  if (asker.call(find, fields(list, 0n)) === 0) throw new Error("It is not in the list");
}

/**
 * As examples/procedures/hash_map.c has it; the numbers in the map are little-endian. Returns how many round
 * trips it took.
 */
function lookupByReads(asker: Asker, { map, keys }: Scene, i: number): number {
  const key = keys[i]!;
  const hash = BigInt.asUintN(64, key * 0x9e3779b97f4a7c15n) >> 32n;
  const bucket = map + 4n + 4n * (hash & BigInt(BUCKETS - 1));
  let offset = asker.littleEndian(asker.ask("read", [bucket, 4n]));
  for (let trips = 2;; trips++) {
    const entry = asker.ask("read", [BigInt(HEAP_BASE + offset), 16n]);
    if (asker.littleEndianField(entry + 8) === key) return trips;
    offset = asker.littleEndian(entry);
  }
}

function lookupByCall(asker: Asker, { map, lookup, keys }: Scene, i: number): void {
  if (asker.call(lookup, fields(map, keys[i]!)) !== i + 1) throw new Error("A wrong value");
}

/**
 * The median of how long each step takes, in microseconds. They take turns one by one, to and fro, so that
 * whatever else the machine does falls on all alike; the first half is warm-up.
 */
function mediansOf(steps: readonly (() => void)[], turns: number): number[] {
  const times: number[][] = steps.map(() => []);
  for (let turn = 0; turn < 2 * turns; turn++) {
    for (let at = 0; at < steps.length; at++) {
      const i = turn % 2 === 0 ? at : steps.length - 1 - at;
      const start = performance.now();
      steps[i]!();
      if (turn >= turns) times[i]!.push(performance.now() - start);
    }
  }
  return times.map((values) => 1000 * values.sort((a, b) => a - b)[turns >>> 1]!);
}

async function main(engine: string, turns: number): Promise<void> {
  await using daemon = await startMallocd(engine, "--procedures");
  const scene = await build(daemon);
  using asker = new Asker(daemon);
  let [at, lookups, trips] = [0, 0, 0];
  const next = () => at = (at + 619) % KEYS;
  const steps: readonly [name: string, step: () => void][] = [
    [`a list of ${HOPS}, by reads`, () => walkByReads(asker, scene)],
    ["by one call", () => walkByCall(asker, scene)],
    ["a lookup in a hash map, by reads", () => {
      lookups++;
      trips += lookupByReads(asker, scene, next());
    }],
    ["by one call", () => lookupByCall(asker, scene, next())],
    ["a call of nothing", () => void asker.ask("call", [scene.nothing, 0n], NO_ARGUMENTS)],
    ["a read", () => void asker.ask("read", [scene.list, 8n])],
  ];
  const wanted = [">= 50", ">= 2.5", "<= 1.2"];
  const times = mediansOf(steps.map(([, step]) => step), turns);
  printTable([
    [`round trips, ${engine} engine`, "microseconds", "times", "wanted"],
    ...steps.map(([name], i) => {
      const verdict = i % 2 === 0 ? ["", ""] : [ratio(times[i - 1]! / times[i]!), wanted[i >> 1]!];
      return [name, times[i]!.toFixed(1), ...verdict];
    }),
    [`round trips of a lookup, seed ${SEED}`, "", (trips / lookups).toFixed(2), ""],
  ]);
}

/**
 * Serves so many calls of the list's and the map's procedures, half of them each, in the service itself;
 * the heap's lower half is taken, so that no offset is a small integer. Calls gc() before and after.
 */
export function serveCalls(calls: number, warmUp: number): void {
  const [reply, source, size] = [64 * 1024, 128 * 1024, 4 * 1024 ** 3];
  const io = new WebAssembly.Memory({ initial: 3, maximum: 3 });
  const view = new DataView(io.buffer);
  const bytes = new Uint8Array(io.buffer);
  const state = newState({ memory: size, replayCache: DEFAULT_ENTRIES });
  const heap = new Heap({ memory: newHeapMemory(size), size, io, reserved: RESERVED, state });
  const options = { replayCache: DEFAULT_ENTRIES, state, fuel: DEFAULT_FUEL };
  const service = new Service(options, { heap, io, port: 0, procedures: Procedures });
  writeSource(view, source, "127.0.0.1", 40000);
  for (let length = size / 4; length >= RESERVED; length /= 2) heap.malloc({ pointer: 0, length });
  let tag = 0;
  const ask = (method: MethodName, values: bigint[], data?: Uint8Array): number => {
    const length = encodeRequest(view, 0, method, values, { tag: ++tag, ...(data && { data }) });
    service.serve(0, length, reply, source);
    if (view.getUint16(reply + 4) !== 0) throw new Error(`${method}: ${view.getUint16(reply + 4)}`);
    return Number(view.getBigUint64(reply + REPLY_HEAD));
  };
  const install = (module: Uint8Array): bigint => {
    const pointer = BigInt(ask("malloc", [BigInt(module.length)]));
    ask("write", [pointer, BigInt(module.length)], module);
    return BigInt(ask("install", [pointer, BigInt(module.length)]));
  };
  const map = install(HASH_MAP);
  const base = BigInt(HEAP_BASE);
  const table = base + BigInt(ask("call", [map, 8n], fields(1024n)));
  for (let key = 1n; key <= 2000n; key++) ask("call", [map, 24n], fields(table, key, key));
  const list = BigInt(ask("malloc", [8n]));
  let next = 0n;
  for (let i = 0n; i < 10n; i++) {
    const node = BigInt(ask("malloc", [24n]));
    ask("write", [node, 24n], fields(next, 8n, i));
    next = node;
  }
  ask("write", [list, 8n], fields(next));
  const datagrams: readonly (readonly [at: number, length: number])[] = [
    [
      1024,
      encodeRequest(view, 1024, "call", [install(LIST), 16n], {
        tag: 0,
        data: fields(list, 0n),
      }),
    ],
    [2048, encodeRequest(view, 2048, "call", [map, 16n], { tag: 0, data: fields(table, 77n) })],
  ];
  let served = 0;
  const serve = (until: number) => {
    for (; served < until; served += 2) {
      for (let i = 0; i < 2; i++) {
        const [at, length] = datagrams[i]!;
        view.setInt32(at, tag = (tag + 1) | 0);
        service.beginTurn();
        service.serve(at, length, reply, source);
      }
      state.service.clock[0] = served >>> 18;
    }
  };
  const { gc } = globalThis as { gc?: () => void };
  // In many pieces, so that what serves is compiled as a whole and not only its loop.
  for (let i = 1; i <= 100; i++) serve(warmUp * i / 100);
  gc?.();
  serve(warmUp + calls);
  gc?.();
  if (bytes[reply + REPLY_HEAD + FIELD - 1] !== 77) throw new Error("The last value is wrong");
}

if (import.meta.main) {
  const isSmoke = Deno.args.includes("--smoke");
  const named = Deno.args.filter((word) => !word.startsWith("--"));
  for (const engine of named.length > 0 ? named : ["datagram", "syscall"]) {
    await main(engine, isSmoke ? 5 : 1000);
  }
}
