/**
 * A singly linked list of texts on somebody else's heap, after the paper's promise that it is easy to
 * implement your own data structures on top of mallocd. The list is one pointer, to its first node;
 * whoever knows where that lies has the list. A node is as long as its text:
 *
 *     0       8       16
 *     +-------+-------+------ - - -
 *     | next  |length | text, UTF-8         next is NULL (0) in the last node
 *     +-------+-------+------ - - -
 *
 * One client at a time may change it: see stack.ts for what several need.
 *
 *     deno run --allow-net examples/list.ts [HOST:PORT]
 */

import { Remote } from "../lib/client/remote.ts";

const NULL = 0n;
const FIELD = 8;
const NODE_HEAD = 2 * FIELD;

export class List {
  /** The list at an address that another client told; `create` makes a new one. */
  constructor(readonly remote: Remote, readonly address: bigint) {}

  /** An empty list: fresh memory is zero, and zero is NULL. */
  static async create(remote: Remote): Promise<List> {
    return new List(remote, await remote.malloc(FIELD));
  }

  /** Puts a text in front of all others. */
  async prepend(text: string): Promise<void> {
    const bytes = new TextEncoder().encode(text);
    const node = new Uint8Array(NODE_HEAD + bytes.length);
    const view = new DataView(node.buffer);
    view.setBigUint64(0, await this.#field(this.address));
    view.setBigUint64(FIELD, BigInt(bytes.length));
    node.set(bytes, NODE_HEAD);
    const address = await this.remote.malloc(node.length);
    await this.remote.write(address, node);
    await this.#setField(this.address, address); // only now can a reader come upon the node
  }

  /** Takes out the first node with this text; false if there is none. */
  async remove(text: string): Promise<boolean> {
    let link = this.address; // where the pointer to the node lies
    for await (const node of this.#nodes()) {
      if (node.text === text) {
        await this.#setField(link, node.next);
        await this.remote.free(node.address);
        return true;
      }
      link = node.address; // a node begins with the pointer to the next one
    }
    return false;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string> {
    for await (const { text } of this.#nodes()) yield text;
  }

  /** Frees the list and all that is in it. */
  async free(): Promise<void> {
    for await (const { address } of this.#nodes()) await this.remote.free(address);
    await this.remote.free(this.address);
  }

  async *#nodes(): AsyncGenerator<{ address: bigint; next: bigint; text: string }> {
    let address = await this.#field(this.address);
    while (address !== NULL) {
      const head = await this.remote.read(address, NODE_HEAD);
      const view = new DataView(head.buffer, head.byteOffset);
      const next = view.getBigUint64(0);
      const length = Number(view.getBigUint64(FIELD));
      const node = await this.remote.read(address, NODE_HEAD + length);
      yield { address, next, text: new TextDecoder().decode(node.subarray(NODE_HEAD)) };
      address = next;
    }
  }

  async #field(address: bigint): Promise<bigint> {
    const bytes = await this.remote.read(address, FIELD);
    return new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0);
  }

  async #setField(address: bigint, value: bigint): Promise<void> {
    const bytes = new Uint8Array(FIELD);
    new DataView(bytes.buffer).setBigUint64(0, value);
    await this.remote.write(address, bytes);
  }
}

if (import.meta.main) {
  const [server = "127.0.0.1:8081"] = Deno.args;
  await using remote = await Remote.connect({ server });
  const list = await List.create(remote);
  for (const text of ["world", "cruel", "hello"]) await list.prepend(text);
  await list.remove("cruel");
  for await (const text of list) console.log(text);
  await list.free();
}
