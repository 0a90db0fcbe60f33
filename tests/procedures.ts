/** What the procedures of examples/procedures/ do, for whoever has built them. */

import { assertEquals, assertNotEquals } from "@std/assert";
import { concat } from "@std/bytes";
import { List } from "../examples/list.ts";
import type { Remote } from "../lib/client/remote.ts";
import { Random } from "./testing.ts";

/** Builds what a procedure works on, and compares it with a model. */
export type Suite = (remote: Remote, handle: bigint) => Promise<void>;

const encode = (text: string) => new TextEncoder().encode(text);

/** Fields: 64 bits each, big-endian. */
function fields(...values: bigint[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => view.setBigUint64(8 * i, value));
  return new Uint8Array(view.buffer);
}

async function testList(remote: Remote, handle: bigint): Promise<void> {
  const base = remote.hello!.base;
  const list = await List.create(remote);
  const find = (text: string) => remote.call(handle, concat([fields(list.address), encode(text)]));
  assertEquals(await find("nothing"), 0n);
  for (let i = 0; i < 50; i++) await list.prepend(`node ${i}`);
  await list.prepend("");
  const addresses = new Set<bigint>();
  for (const text of ["node 49", "node 0", "node 25", ""]) {
    const offset = await find(text);
    const bytes = await remote.read(base + offset + 16n, text.length);
    assertEquals(new TextDecoder().decode(bytes), text);
    addresses.add(offset);
  }
  assertEquals(addresses.size, 4);
  for (const text of ["node 50", "node", "Node 1", "node 255"]) assertEquals(await find(text), 0n);
}

async function testHashMap(remote: Remote, handle: bigint): Promise<void> {
  const random = new Random(14);
  const map = remote.hello!.base + await remote.call(handle, [16n]);
  const model = new Map<bigint, bigint>();
  for (let step = 0; step < 400; step++) {
    const key = BigInt(random.below(100)) << 40n | 5n;
    assertEquals(await remote.call(handle, [map, key]), model.get(key) ?? 0n);
    if (!random.chance(0.7)) continue;
    const value = BigInt(random.word());
    assertEquals(await remote.call(handle, [map, key, value]), model.get(key) ?? 0n);
    model.set(key, value);
  }
  for (const [key, value] of model) assertEquals(await remote.call(handle, [map, key]), value);
  assertEquals(await remote.call(handle, [2n ** 40n]), 0n); // too many buckets
}

const NODE_FIELDS = 33;
const MAX_KEYS = 15;

/** Writes a tree of sorted entries, and resolves with the address of its root. */
async function writeTree(remote: Remote, entries: readonly [bigint, bigint][]): Promise<bigint> {
  let level: { first: bigint; address: bigint }[] = [];
  for (let i = 0; i < entries.length; i += MAX_KEYS) {
    const own = entries.slice(i, i + MAX_KEYS);
    const [keys, values] = [own.map(([key]) => key), own.map(([, value]) => value)];
    level.push({ first: keys[0]!, address: await writeNode(remote, 1n, keys, values) });
  }
  while (level.length > 1) {
    const above: typeof level = [];
    for (let i = 0; i < level.length; i += MAX_KEYS + 1) {
      const children = level.slice(i, i + MAX_KEYS + 1);
      const keys = children.slice(1).map(({ first }) => first);
      const addresses = children.map(({ address }) => address);
      const address = await writeNode(remote, 0n, keys, addresses);
      above.push({ first: children[0]!.first, address });
    }
    level = above;
  }
  return level[0]!.address;
}

async function writeNode(remote: Remote, leaf: bigint, keys: bigint[], values: bigint[]) {
  const all = [BigInt(keys.length), leaf, ...keys];
  while (all.length < 2 + MAX_KEYS) all.push(0n);
  const address = await remote.malloc(8 * NODE_FIELDS);
  await remote.write(address, fields(...all, ...values));
  return address;
}

async function testRange(remote: Remote, handle: bigint): Promise<void> {
  const random = new Random(15);
  const keys = new Set(Array.from({ length: 1000 }, () => BigInt(random.word()) << 8n));
  const entries = [...keys].sort((a, b) => a < b ? -1 : 1)
    .map((key): [bigint, bigint] => [key, key * 3n]);
  const root = await writeTree(remote, entries);
  const limit = 64;
  const out = await remote.malloc(8 * limit);
  for (let round = 0; round < 100; round++) {
    const [a, b] = [BigInt(random.word()) << 8n, BigInt(random.word()) << 8n];
    const first = round % 3 === 0 ? random.pick(entries)[0] : a;
    const last = round % 2 === 0 ? first + (b >> 5n) : b;
    const expected = entries.filter(([key]) => key >= first && key <= last).slice(0, limit)
      .map(([, value]) => value);
    const found = await remote.call(handle, [root, first, last, out, BigInt(limit)]);
    assertEquals(found, BigInt(expected.length));
    const bytes = await remote.read(out, 8 * expected.length);
    assertEquals(bytes.toHex(), fields(...expected).toHex());
  }
  const all = [root, 0n, 2n ** 64n - 1n, out, 0n];
  assertEquals(await remote.call(handle, all), 0n);
  assertNotEquals(entries.length, 0);
}

/** By the name of their file, without its ending. */
export const SUITES: Readonly<Record<string, Suite>> = {
  list: testList,
  hash_map: testHashMap,
  range: testRange,
};
