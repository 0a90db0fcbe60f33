/** What tests share: a seeded generator, the service in a box, hex in and hex out, an engine's options. */

import { type Counters, type FamilyName, sumOf } from "../lib/daemon/counters.ts";
import type { EngineOptions } from "../lib/daemon/engine.ts";
import { Gauges } from "../lib/daemon/gauges.ts";
import { Heap, MIN_HEAP, newHeapMemory } from "../lib/heap/heap.ts";
import { MAX_DATAGRAM } from "../lib/protocol/wire.ts";
import { RESERVED } from "../lib/daemon/procedures/limits.ts";
import { Procedures } from "../lib/daemon/procedures/procedures.ts";
import { NO_REPLY, Service, type ServiceOptions, WORK_PER_TURN } from "../lib/daemon/service.ts";
import type { Membership } from "../lib/daemon/cluster/membership.ts";
import type { Release } from "../lib/heap/reclaim.ts";
import type { Undo } from "../lib/heap/undo.ts";
import { newState } from "../lib/daemon/state.ts";
import { SOURCE_BYTES, writeSource } from "../lib/system/address.ts";

/** Numbers that look random and are the same for the same seed: xorshift (Marsaglia, 2003). */
export class Random {
  #state: number;

  constructor(readonly seed: number) {
    this.#state = Math.imul(seed, 0x9e3779b1) || 1;
  }

  /** 32 bits, unsigned. */
  word(): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return this.#state >>> 0;
  }

  /** An integer from 0 to `bound - 1`; the bound is at most 2^32. */
  below(bound: number): number {
    return Math.floor(this.word() / 2 ** 32 * bound);
  }

  chance(probability: number): boolean {
    return this.word() < probability * 2 ** 32;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  bytes(length: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length }, () => this.word() >>> 24);
  }
}

/** One or more 64-bit fields in hex. */
export function fields(...values: (number | bigint)[]): string {
  return values.map((value) => BigInt.asUintN(64, BigInt(value)).toString(16).padStart(16, "0"))
    .join("");
}

/** The word of a tagged request, or with a status and the reply flag 0x80 that of its reply, in hex. */
export function word(tag: number, opcode: number, { status = 0, flags = 0x01 } = {}): string {
  return fields(
    BigInt(tag) << 32n | BigInt(status) << 16n | BigInt(flags) << 8n | BigInt(opcode),
  );
}

/** The head of a tagged reply, in hex: its word and the length of its body. */
export function head(tag: number, opcode: number, status: number, bodyLength: number): string {
  return word(tag, opcode, { status, flags: 0x81 }) + fields(bodyLength);
}

const REQUEST = 0;
const REPLY = 64 * 1024;
const SOURCE = 128 * 1024;
const IO_PAGES = 3;

/** What the box finds after a reply, where the service must not have written. */
const UNTOUCHED = 0xa5;

export interface BoxOptions extends Partial<ServiceOptions> {
  size?: number;
  strict?: boolean;
  port?: number;
  validated?: boolean;
  workPerTurn?: number;
  /** Of a daemon in a cluster. */
  membership?: Membership | undefined;
  /** Where the bytes of clients lie. */
  memory?: WebAssembly.Memory;
  /** What can be undone there. */
  undo?: Undo;
  /** How pages are given back; they are kept if it is left out. */
  release?: Release;
}

/** A service with a heap of its own; requests and replies are hex. */
export class Box {
  readonly io = new WebAssembly.Memory({ initial: IO_PAGES, maximum: IO_PAGES });
  readonly clock: Int32Array;
  readonly heap: Heap;
  readonly service: Service;
  readonly #bytes = new Uint8Array(this.io.buffer);
  readonly #gauges: Gauges;

  constructor(
    {
      size = MIN_HEAP,
      strict = false,
      port = 0,
      workPerTurn = WORK_PER_TURN,
      validated,
      membership,
      memory = newHeapMemory(size),
      undo,
      release,
      ...options
    }: BoxOptions = {},
  ) {
    const { io } = this;
    const { replayCache = 64, quota } = options;
    const { state = newState({ memory: size, replayCache, quota }) } = options;
    this.clock = state.service.clock;
    this.#gauges = new Gauges({ memory: size, replayCache, quota }, state);
    const range = membership?.range;
    const reserved = options.fuel === undefined ? 0 : RESERVED;
    const heap = { memory, size, io, strict, workPerTurn, reserved, state, range, undo, release };
    this.heap = new Heap(heap);
    this.service = new Service(
      { ...options, replayCache, state },
      { heap: this.heap, io, port, validated, membership, undo, procedures: Procedures },
    );
    this.from("127.0.0.1", 40000);
  }

  /** Makes all requests from now on come from this sender. */
  from(hostname: string, port: number): void {
    writeSource(new DataView(this.io.buffer, SOURCE, SOURCE_BYTES), 0, hostname, port);
  }

  /** What it counts and measures, now: all of it. */
  get counters(): Counters {
    this.#gauges.refresh();
    return this.service.counters;
  }

  /** A figure, or the sum of a family. */
  count(family: FamilyName): number {
    return sumOf(this.counters, family);
  }

  /** Leaves bytes where the next datagram will lie, as an earlier and longer one would. */
  leave(hex: string): void {
    this.#bytes.set(Uint8Array.fromHex(hex), REQUEST);
  }

  /** Sends a datagram; the result is the reply, of which "" is an empty datagram, undefined none. */
  ask(hex: string): string | undefined {
    return this.askBytes(Uint8Array.fromHex(hex))?.toHex();
  }

  /** Has the service do once more what a datagram did elsewhere. */
  replay(hex: string, judged: { proven: number; limit: number }): void {
    this.#bytes.set(Uint8Array.fromHex(hex), REQUEST);
    this.service.beginTurn();
    this.service.replay(REQUEST, hex.length / 2, REPLY, SOURCE, judged);
  }

  /** Like `ask`; the reply is a view that the next request overwrites. */
  askBytes(request: Uint8Array): Uint8Array | undefined {
    this.#bytes.set(request, REQUEST);
    this.#bytes.fill(UNTOUCHED, REPLY + MAX_DATAGRAM, SOURCE);
    this.service.beginTurn();
    const length = this.service.serve(REQUEST, request.length, REPLY, SOURCE);
    if (this.#bytes.subarray(REPLY + MAX_DATAGRAM, SOURCE).some((byte) => byte !== UNTOUCHED)) {
      throw new Error("The service wrote more than MAX_DATAGRAM bytes to the reply");
    }
    return length === NO_REPLY ? undefined : this.#bytes.subarray(REPLY, REPLY + length);
  }
}

/** Options of an engine on a free port, over a small heap. */
export function newOptions(options: Partial<EngineOptions> = {}): EngineOptions {
  const sizes = { memory: 16 * 1024 ** 2, replayCache: 1024, ...options };
  return { hostname: "127.0.0.1", port: 0, strict: false, state: newState(sizes), ...sizes };
}
