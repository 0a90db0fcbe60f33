/** A daemon that is killed between any two of its stores, and what the next one finds. It is tested itself. */

import { assert, assertEquals } from "@std/assert";
import { GRAIN, HEAP_BASE, newHeapMemory } from "../../lib/heap/heap.ts";
import { newSavedMemory, Undo } from "../../lib/heap/undo.ts";
import { CacheFigure } from "../../lib/daemon/duplicate_request_cache.ts";
import { newState, type State } from "../../lib/daemon/state.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { Box, type BoxOptions, fields, Random, word } from "../testing.ts";

const SIZE = 64 * 1024;
/** Few, so that replies are pushed out all the time. */
const REPLAY_CACHE = 8;
const QUOTA = SIZE / 2;
/** As duplicate_request_cache.ts draws them; the last one is the link to the next newer one. */
const ENTRY_WORDS = 14;
const LENGTHS = [1, 16, 17, 100, 1000, 5000];

/** Figures, which begin anew with each process. */
const PASSING = ["counters", "byOrder", "blocks"];

export class Killed extends Error {}

/** Counts the stores to all arrays of a state and, when so many are made, ends the process. */
class Reaper {
  stores = 0;
  limit = Infinity;

  watch(state: State): State {
    const owners = Object.entries(state).map(([owner, arrays]) => {
      const watched = Object.entries(arrays)
        .map(([name, array]) => [name, PASSING.includes(name) ? array : this.#watched(array)]);
      return [owner, Object.fromEntries(watched)];
    });
    return Object.fromEntries(owners);
  }

  #watched<A extends Int32Array | Uint16Array | Uint8Array | Float64Array>(array: A): A {
    return new Proxy(array, {
      get: (target, key) => {
        const value = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
      set: (target, key, value) => {
        if (this.stores === this.limit) throw new Killed();
        this.stores++;
        return Reflect.set(target, key, value, target);
      },
    });
  }
}

/** What outlives a process: the heap's memory, what is saved of it, and the state. */
export class Machine {
  readonly memory = newHeapMemory(SIZE);
  readonly saved = newSavedMemory(SIZE);
  readonly state = newState({ memory: SIZE, replayCache: REPLAY_CACHE, quota: QUOTA });
  readonly reaper = new Reaper();
  readonly #parts = [this.memory.buffer, this.saved.buffer, this.state.undo.log.buffer]
    .map((buffer) => new Uint8Array(buffer));

  constructor(readonly Log: typeof Undo = Undo) {}

  /** Starts a process over what there is. */
  start(options: BoxOptions = {}): Box {
    const { memory, saved, state, reaper } = this;
    const watched = reaper.watch(state);
    const undo = new this.Log(watched.undo, saved, memory);
    const sizes = { size: SIZE, replayCache: REPLAY_CACHE, quota: QUOTA, state: watched };
    return new Box({ ...sizes, memory, undo, ...options });
  }

  copy(): Uint8Array[] {
    return this.#parts.map((part) => part.slice());
  }

  restore(copy: readonly Uint8Array[]): void {
    this.#parts.forEach((part, i) => part.set(copy[i]!));
  }

  /** Spoils part of each stretch of bytes that was saved: the store over it may be half done. */
  spoil(random: Random): void {
    const { log } = this.state.undo;
    const saved = new DataView(this.saved.buffer);
    const bytes = new Uint8Array(this.memory.buffer);
    for (let i = 0; i < log[0]!; i++) {
      if (log[2 + 2 * i] !== -1) continue;
      const at = log[3 + 2 * i]!;
      const offset = saved.getUint32(at, true);
      const length = saved.getUint32(at + 8, true);
      const from = random.below(length);
      const end = from + random.below(length - from + 1);
      bytes.set(random.bytes(end - from), offset + from);
    }
  }

  /** All that a client could ever notice: what is known, and the bytes of live blocks. */
  visible(box: Box): Uint8Array {
    const memory = new Uint8Array(this.memory.buffer.byteLength);
    const known = new Uint8Array(this.state.undo.log.buffer.slice(0));
    const forget = (array: ArrayBufferView) =>
      known.fill(0, array.byteOffset, array.byteOffset + array.byteLength);
    const { undo, heap, cache, quota } = this.state;
    // Entries that are in no list, owners of what is free, and pages that are zero anyway mean nothing, nor
    // does which account is looked at next.
    const { dirty, cleared, dirtyPages } = heap;
    const { words, links } = cache;
    for (const array of [undo.log, dirty, cleared, dirtyPages, words, links, quota.owner]) {
      forget(array);
    }
    forget(cache.figures.subarray(CacheFigure.hand, CacheFigure.hand + 1));
    const [keptWords, keptLinks] = [words, links]
      .map((array) => new Int32Array(known.buffer, array.byteOffset, array.length));
    for (const oldest of cache.oldest) {
      for (let link = oldest; link !== 0; link = words[link * ENTRY_WORDS - 1]!) {
        for (let i = 1; i <= ENTRY_WORDS; i++) {
          keptWords![link * ENTRY_WORDS - i] = words[link * ENTRY_WORDS - i]!;
        }
        for (let i = 1; i <= 2; i++) keptLinks![link * 2 - i] = links[link * 2 - i]!;
      }
    }
    const owners = new Uint16Array(known.buffer, quota.owner.byteOffset, quota.owner.length);
    for (const pointer of liveBlocks(box)) {
      const grain = (pointer - HEAP_BASE) / GRAIN;
      owners[grain] = quota.owner[grain]!;
      const [from, end] = [grain * GRAIN, box.heap.buddy.endOfLive(grain) * GRAIN];
      memory.set(new Uint8Array(this.memory.buffer, from, end - from), from);
    }
    const all = new Uint8Array(memory.length + known.length);
    all.set(memory);
    all.set(known, memory.length);
    return all;
  }

  /** Where memory is not known to be dirty, it is zero. */
  checkPages(): void {
    const bytes = new Uint8Array(this.memory.buffer);
    const { dirty, dirtyPages } = this.state.heap;
    dirty.forEach((isDirty, page) => {
      if (isDirty) return;
      assert(bytes.subarray(page * 4096, (page + 1) * 4096).every((byte) => byte === 0));
    });
    assertEquals(dirtyPages[0], dirty.reduce((sum, isDirty) => sum + isDirty, 0));
  }
}

/** A request that may do anything, in hex; tagged, or classic if there is no tag. */
function anyRequest(random: Random, blocks: readonly number[], tag: number | undefined): string {
  const pointer = () => blocks.length === 0 || random.chance(0.05) ? 0 : random.pick(blocks);
  const of = (method: keyof typeof METHODS, ...values: number[]) =>
    (tag === undefined ? fields(METHODS[method].opcode) : word(tag, METHODS[method].opcode)) +
    fields(...values);
  const length = () => random.pick(LENGTHS);
  const makers: (() => string)[] = [
    () => of("malloc", length()),
    () => of("malloc", length()),
    () => of("malloc", random.pick([QUOTA + 1, SIZE])),
    () => of("free", pointer()),
    () => {
      const bytes = random.bytes(1 + random.below(200));
      return of("write", HEAP_BASE + random.below(SIZE - 200), bytes.length) + bytes.toHex();
    },
    () => {
      const bytes = random.bytes(16);
      return of("write", pointer() || HEAP_BASE, bytes.length) + bytes.toHex();
    },
  ];
  if (tag !== undefined) {
    makers.push(
      () => of("realloc", pointer(), random.chance(0.1) ? 0 : length()),
      () => of("realloc", pointer(), length()),
      () => of("realloc", pointer(), QUOTA + 1),
      () => of("cas", pointer() || HEAP_BASE, 0, random.word()),
      () => of("add", pointer() || HEAP_BASE, random.word()),
    );
  }
  return random.pick(makers)();
}

function liveBlocks({ heap: { buddy } }: Box): number[] {
  const pointers: number[] = [];
  for (let grain = 0; grain < SIZE / GRAIN; grain++) {
    if (buddy.orderAt(grain) >= 0) pointers.push(HEAP_BASE + grain * GRAIN);
  }
  return pointers;
}

/** Makes a request in a process that is killed before its `limit`-th store; whether it came to that. */
export function isKilled(machine: Machine, box: Box, request: string, limit: number): boolean {
  machine.reaper.stores = 0;
  machine.reaper.limit = limit;
  try {
    box.ask(request);
    return false;
  } catch (error) {
    if (!(error instanceof Killed)) throw error;
    return true;
  } finally {
    machine.reaper.limit = Infinity;
  }
}

export function areEqual(a: Uint8Array, b: Uint8Array): boolean {
  const [left, right] = [new Int32Array(a.buffer), new Int32Array(b.buffer)];
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) return false;
  return true;
}

export interface Plan {
  seed: number;
  /** Requests. */
  steps: number;
  /** Of the stores of a request, one in so many, on the average, is the last: each if it is left out. */
  stride?: number;
}

/**
 * Carries out random requests, each of them many times: killed before each of its stores, recovered, and
 * repeated. Throws if one was done by half, or twice. Returns how often a daemon was killed.
 */
export function killEverywhere(
  machine: Machine,
  { seed, steps, stride = 1 }: Plan,
): number {
  const random = new Random(seed);
  let kills = 0;
  for (let step = 0; step < steps; step++) {
    const context = `seed ${seed}, step ${step}`;
    const from = ["127.0.0.1", 40000 + random.below(3)] as const;
    const start = () => {
      const box = machine.start();
      box.from(...from);
      return box;
    };
    const box = start();
    const tag = random.chance(0.8) ? step + 1 : undefined;
    const request = anyRequest(random, liveBlocks(box), tag);
    const before = machine.copy();
    const earlier = machine.visible(box);
    const reply = box.ask(request);
    const later = machine.visible(box);
    const after = machine.copy();
    for (let limit = 0;; limit += 1 + random.below(2 * stride - 1)) {
      machine.restore(before);
      if (!isKilled(machine, start(), request, limit)) {
        assert(areEqual(machine.visible(start()), later), `${context}: done, and then lost`);
        break;
      }
      kills++;
      machine.spoil(random);
      const heir = start();
      machine.checkPages();
      const found = machine.visible(heir);
      if (areEqual(found, later)) continue; // it had happened, or it changes nothing
      assert(areEqual(found, earlier), `${context}: half done before store ${limit}`);
      if (tag === undefined) continue;
      assertEquals(heir.ask(request), reply, context);
      assert(areEqual(machine.visible(heir), later), `${context}: done otherwise`);
      assertEquals(heir.ask(request), reply, `${context}: a repeat`);
    }
    machine.restore(after);
  }
  return kills;
}
