/**
 * A stack that any number of clients push to and pop from at once, without locks (Treiber, IBM RJ 5118,
 * 1986): whoever changes it reads the top, prepares the new top, and swaps the two, unless the top has
 * changed meanwhile; then it starts again. A node is one block of 16 bytes:
 *
 *     top                     0       8       16
 *     +--------------+        +-------+-------+
 *     | version | top|------->| below | value |       below is the address of the next node, or NULL
 *     +--------------+        +-------+-------+
 *
 * "Unless it has changed" is more than compare-and-swap can tell by an address, the ABA problem: while
 * one client is about to replace node A by B, which lies below it, another pops A and B, frees both,
 * and pushes a new node, which happens to be A again. The top is A as before, the first client's swap
 * succeeds, and the top is B: freed memory. So the top carries a version, too, which every change
 * makes one more. Addresses are multiples of 16 below 2^44, which leaves 24 of 64 bits for it: only a
 * client that sleeps through exactly 2^24 changes, or a multiple of them, can be fooled.
 *
 *     deno run --allow-net examples/stack.ts [HOST:PORT]
 */

import { RefusedError, Remote } from "../lib/client/remote.ts";

const NULL = 0n;
const FIELD = 8;
const NODE_SIZE = 2 * FIELD;

const ALIGNMENT_BITS = 4n;
const ADDRESS_BITS = 44n - ALIGNMENT_BITS;

/** The address in a versioned pointer. */
export function addressOf(versioned: bigint): bigint {
  return BigInt.asUintN(Number(ADDRESS_BITS), versioned) << ALIGNMENT_BITS;
}

/** The versioned pointer that replaces `versioned`: to another address, and one version later. */
export function successor(versioned: bigint, address: bigint): bigint {
  const version = (versioned >> ADDRESS_BITS) + 1n;
  return BigInt.asUintN(64, version << ADDRESS_BITS | address >> ALIGNMENT_BITS);
}

/** The 64-bit word at an address. */
export async function readWord(remote: Remote, address: bigint): Promise<bigint> {
  const bytes = await remote.read(address, FIELD);
  return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0);
}

/** What lies at an address, or undefined if a strict daemon says that nothing does any more. */
export function readIfLive(
  remote: Remote,
  address: bigint,
  length: number,
): Promise<Uint8Array | undefined> {
  return remote.read(address, length).catch((error) => {
    if (error instanceof RefusedError && error.errno === "EACCES") return undefined;
    throw error;
  });
}

export class Stack {
  /** The stack at an address that another client told; `create` makes a new one. */
  constructor(readonly remote: Remote, readonly address: bigint) {}

  /** An empty stack: fresh memory is zero, version 0 of NULL. */
  static async create(remote: Remote): Promise<Stack> {
    return new Stack(remote, await remote.malloc(FIELD));
  }

  async push(value: bigint): Promise<void> {
    const address = await this.remote.malloc(NODE_SIZE);
    const node = new DataView(new ArrayBuffer(NODE_SIZE));
    node.setBigUint64(FIELD, value);
    let top = await readWord(this.remote, this.address);
    while (true) {
      node.setBigUint64(0, addressOf(top));
      await this.remote.write(address, new Uint8Array(node.buffer));
      const seen = await this.remote.compareAndSwap(this.address, top, successor(top, address));
      if (seen === top) return;
      top = seen;
    }
  }

  /** The value that was pushed last, undefined if the stack is empty. */
  async pop(): Promise<bigint | undefined> {
    let top = await readWord(this.remote, this.address);
    while (addressOf(top) !== NULL) {
      // Somebody else may pop and free the node just now. Then this reads what is no node any more,
      // which does no harm, because the swap will fail.
      const node = await readIfLive(this.remote, addressOf(top), NODE_SIZE);
      if (node === undefined) {
        top = await readWord(this.remote, this.address);
        continue;
      }
      const view = new DataView(node.buffer, node.byteOffset);
      const desired = successor(top, view.getBigUint64(0));
      const seen = await this.remote.compareAndSwap(this.address, top, desired);
      if (seen === top) {
        await this.remote.free(addressOf(top));
        return view.getBigUint64(FIELD);
      }
      top = seen;
    }
    return undefined;
  }
}

if (import.meta.main) {
  const [server = "127.0.0.1:8081"] = Deno.args;
  await using remote = await Remote.connect({ server });
  const stack = await Stack.create(remote);
  for (const value of [1n, 2n, 3n]) await stack.push(value);
  for (let value; (value = await stack.pop()) !== undefined;) console.log(String(value));
  await remote.free(stack.address);
}
