/**
 * The service without a socket: requests a second, of each kind and of all mixed.
 *
 *     deno run bench/service.ts [REQUESTS]
 *
 * It also shows that serving makes no garbage. On a terminal,
 *
 *     deno run --v8-flags=--trace-gc bench/service.ts
 *
 * prints no collection between "measuring" and "measured". Into a pipe, V8 writes its lines later than
 * we ours; with --expose-gc, too, a collection of our own marks the two places among them.
 */

import { namedCounts } from "../lib/daemon/counters.ts";
import { Heap, HEAP_BASE, newHeapMemory } from "../lib/heap/heap.ts";
import { encodeRequest, type MethodName, REPLY_HEAD } from "../lib/protocol/wire.ts";
import { DEFAULT_ENTRIES } from "../lib/daemon/duplicate_request_cache.ts";
import { Service } from "../lib/daemon/service.ts";
import { newState } from "../lib/daemon/state.ts";
import { writeSource } from "../lib/system/address.ts";
import { grouped, printTable, ratio } from "./table.ts";

const REPLY = 64 * 1024;
const SOURCE = 128 * 1024;
const HEAP = 4 * 1024 ** 3;

const io = new WebAssembly.Memory({ initial: 3, maximum: 3 });
const view = new DataView(io.buffer);
const state = newState({ memory: HEAP, replayCache: DEFAULT_ENTRIES });
const { clock } = state.service;
const heap = new Heap({ memory: newHeapMemory(HEAP), size: HEAP, io, state });
const service = new Service({ replayCache: DEFAULT_ENTRIES, state }, { heap, io, port: 0 });
writeSource(view, SOURCE, "127.0.0.1", 40000);

let end = 0;
let tag = 0;
let served = 0;

/** A datagram that is encoded once; from then on only its pointers and tags are changed. */
class Datagram {
  readonly #at = end;
  readonly #ends: number[] = [];

  /** Adds a request; `tagged` ones get a tag of their own each time. */
  add(
    method: MethodName,
    fields: bigint[],
    { tagged = true, data }: { tagged?: boolean; data?: Uint8Array } = {},
  ): this {
    const options = { ...(tagged && { tag: 0 }), ...(data && { data }) };
    end += encodeRequest(view, end, method, fields, options);
    this.#ends.push(end);
    return this;
  }

  /** Serves the requests as they are; tagged ones are repeats. */
  send(): void {
    served += this.#ends.length;
    service.serve(this.#at, this.#ends[this.#ends.length - 1]! - this.#at, REPLY, SOURCE);
  }

  /** Serves the requests with new tags. */
  sendNew(): void {
    let at = this.#at;
    for (let i = 0; i < this.#ends.length; i++) {
      tag = (tag + 1) | 0;
      view.setInt32(at, tag);
      at = this.#ends[i]!;
    }
    this.send();
  }

  /** Takes the pointer of its only request from `at` of the last reply. */
  aim(at: number): void {
    view.setInt32(this.#at + 8, view.getInt32(at));
    view.setInt32(this.#at + 12, view.getInt32(at + 4));
  }
}

const text = new TextEncoder().encode("easy data structures");
const tagged = false;

const classicMalloc = new Datagram().add("malloc", [64n], { tagged });
const classicWrite = new Datagram().add("write", [0n, 20n], { tagged, data: text });
const classicRead = new Datagram().add("read", [0n, 20n], { tagged });
const classicFree = new Datagram().add("free", [0n], { tagged });
const wildRead = new Datagram().add("read", [1n, 20n], { tagged });

const malloc = new Datagram().add("malloc", [1000n]);
const write = new Datagram().add("write", [0n, 20n], { data: text });
const read = new Datagram().add("read", [0n, 20n]);
const cas = new Datagram().add("cas", [0n, 0n, 1n]);
const add = new Datagram().add("add", [0n, 1n]);
const realloc = new Datagram().add("realloc", [0n, 5000n]);
const free = new Datagram().add("free", [0n]);
const hello = new Datagram().add("hello", []);

const reads = new Datagram();
for (let i = 0; i < 32; i++) reads.add("read", [BigInt(HEAP_BASE + HEAP / 2 + 64 * i), 64n]);

/** The paper's session. */
function serveClassic(): void {
  classicMalloc.send();
  classicWrite.aim(REPLY);
  classicRead.aim(REPLY);
  classicFree.aim(REPLY);
  classicWrite.send();
  classicRead.send();
  classicFree.send();
}

function serveTagged(): void {
  malloc.sendNew();
  write.aim(REPLY + REPLY_HEAD);
  read.aim(REPLY + REPLY_HEAD);
  cas.aim(REPLY + REPLY_HEAD);
  add.aim(REPLY + REPLY_HEAD);
  realloc.aim(REPLY + REPLY_HEAD);
  write.sendNew();
  read.sendNew();
  cas.sendNew();
  add.sendNew();
  realloc.sendNew();
  free.aim(REPLY + REPLY_HEAD);
  free.sendNew();
  hello.sendNew();
}

function serveRepeats(): void {
  add.send();
  realloc.send();
  free.send();
}

function servePipelined(): void {
  reads.sendNew();
}

function serveMixed(): void {
  serveClassic();
  serveTagged();
  serveRepeats();
  servePipelined();
  wildRead.send();
  clock[0] = served >>> 20; // about a second for every million requests
}

const STEPS: Record<string, () => void> = {
  "classic malloc, write, read, free": serveClassic,
  "tagged, all eight methods": serveTagged,
  "repeats, from the cache": serveRepeats,
  "32 reads of 64 bytes a datagram": servePipelined,
  "all of these mixed": serveMixed,
};

/** Nanoseconds a request. */
function measure(step: () => void, requests: number): number {
  const until = served + requests;
  const start = performance.now();
  while (served < until) step();
  return (performance.now() - start) * 1e6 / requests;
}

/** The warm-up is for the compiler: code that it has not optimised yet makes garbage. */
export function main(requests: number, warmUp: number): void {
  // Half of the heap is taken, so that no offset of the rest is a small integer.
  heap.malloc({ pointer: 0, length: HEAP / 2 });
  for (const step of Object.values(STEPS)) measure(step, warmUp);

  const { gc } = globalThis as { gc?: () => void };
  console.log("measuring");
  gc?.();
  const times = Object.values(STEPS).map((step) => measure(step, requests));
  gc?.();
  console.log("measured");

  const refused = namedCounts(service.counters)
    .filter(([name, count]) => name.startsWith("refused.") && count > 0);
  if (refused.length !== 1 || heap.buddy.liveBlocks !== 1) {
    throw new Error(`Refused more than the wild reads: ${refused.join(" ")}`);
  }
  const rows = Object.keys(STEPS).map((name, i) => [
    name,
    times[i]!.toFixed(1),
    grouped(Math.round(1e9 / times[i]!)),
    ratio(times[0]! / times[i]!),
  ]);
  printTable([[`${grouped(requests)} requests`, "ns each", "a second", "times"], ...rows]);
}

if (import.meta.main) {
  if (Deno.args.includes("--smoke")) main(1000, 1000);
  else main(Number(Deno.args[0] ?? 10_000_000), 1_000_000);
}
