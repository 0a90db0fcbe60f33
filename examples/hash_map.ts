/**
 * A hash map that several processes share. It is a table of versioned pointers (see stack.ts), each to
 * an entry, a key and a value in JSON. An entry never changes: a new value is a new entry, swapped in.
 *
 *     0          8       16
 *     +----------+-------+-------+-------+---         +----------------------+
 *     | capacity | slot  | slot  | slot  | ...  ----->| ["key",value] zeros  |   64 bytes
 *     +----------+-------+-------+-------+---         +----------------------+
 *
 * A key goes to the first slot from its hash on that is empty or its own (linear probing), which is its
 * own for ever: a deleted key has an entry without a value. So clients that insert a key at once meet.
 *
 *     deno run --allow-net examples/hash_map.ts [HOST:PORT [ADDRESS WORD...]]
 *
 * makes a map, or counts words in the one at ADDRESS, in as many processes as you like.
 */

import { Remote } from "../lib/client/remote.ts";
import { addressOf, readIfLive, readWord, successor } from "./stack.ts";

const NULL = 0n;
const FIELD = 8;
const ENTRY_SIZE = 64;

type Entry = [key: string, value?: unknown];
/** A slot as it was read; no entry if no key has taken it yet. */
type Slot = { address: bigint; pointer: bigint; entry: Entry | undefined };

export class HashMap {
  constructor(readonly remote: Remote, readonly address: bigint, readonly capacity: number) {}

  /** An empty map, for so many different keys ever. */
  static async create(remote: Remote, capacity: number): Promise<HashMap> {
    const address = await remote.malloc(FIELD + capacity * FIELD);
    await remote.compareAndSwap(address, 0n, BigInt(capacity)); // fresh memory is zero
    return new HashMap(remote, address, capacity);
  }

  /** The map at an address that another client told. */
  static async open(remote: Remote, address: bigint): Promise<HashMap> {
    return new HashMap(remote, address, Number(await readWord(remote, address)));
  }

  /** The value of a key, undefined if it has none. */
  async get(key: string): Promise<unknown> {
    for await (const { entry } of this.#probe(key)) {
      if (entry === undefined || entry[0] === key) return entry?.[1];
    }
    return undefined;
  }

  /**
   * Replaces the value of a key, atomically, by what `change` makes of it, and resolves with the old
   * one; undefined means none. `change` is called again each time that somebody else was faster.
   */
  async update(key: string, change: (old: unknown) => unknown): Promise<unknown> {
    for await (let slot of this.#probe(key)) {
      while (slot.entry === undefined || slot.entry[0] === key) {
        const old = slot.entry?.[1];
        const value = change(old);
        if (old === undefined && value === undefined) return undefined;
        const entry = await this.#newEntry(value === undefined ? [key] : [key, value]);
        const desired = successor(slot.pointer, entry);
        const seen = await this.remote.compareAndSwap(slot.address, slot.pointer, desired);
        await this.remote.free(seen === slot.pointer ? addressOf(slot.pointer) : entry);
        if (seen === slot.pointer) return old;
        slot = await this.#load(slot.address);
      }
    }
    throw new RangeError(`Cannot insert ${key}: all ${this.capacity} slots are taken`);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<[key: string, value: unknown]> {
    for await (const { entry: [key, value] = [""] } of this.#probe("")) {
      if (value !== undefined) yield [key, value];
    }
  }

  /** All slots, beginning with that to which the key's hash points. */
  async *#probe(key: string): AsyncGenerator<Slot> {
    let hash = 0x811c9dc5; // FNV-1a
    for (const byte of new TextEncoder().encode(key)) hash = Math.imul(hash ^ byte, 0x01000193);
    for (let i = 0; i < this.capacity; i++) {
      const slot = ((hash >>> 0) + i) % this.capacity;
      yield await this.#load(this.address + BigInt(FIELD + slot * FIELD));
    }
  }

  /** Reads a slot and its entry, which it is only if the slot has not changed meanwhile. */
  async #load(address: bigint): Promise<Slot> {
    while (true) {
      const pointer = await readWord(this.remote, address);
      if (addressOf(pointer) === NULL) return { address, pointer, entry: undefined };
      const bytes = await readIfLive(this.remote, addressOf(pointer), ENTRY_SIZE);
      if (bytes === undefined || await readWord(this.remote, address) !== pointer) continue;
      const json = new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
      return { address, pointer, entry: JSON.parse(json) };
    }
  }

  async #newEntry(entry: Entry): Promise<bigint> {
    const bytes = new TextEncoder().encode(JSON.stringify(entry));
    if (bytes.length >= ENTRY_SIZE) throw new RangeError(`Cannot store ${entry}: it is too long`);
    const address = await this.remote.malloc(ENTRY_SIZE);
    await this.remote.write(address, bytes);
    return address;
  }
}

if (import.meta.main) {
  const [server = "127.0.0.1:8081", address, ...words] = Deno.args;
  await using remote = await Remote.connect({ server });
  const map = address === undefined
    ? await HashMap.create(remote, 1000)
    : await HashMap.open(remote, BigInt(address));
  for (const word of words) await map.update(word, (count) => Number(count ?? 0) + 1);
  for await (const [word, count] of map) console.log(`${word} ${count}`);
  if (address === undefined) console.log(`${map.address}`);
}
