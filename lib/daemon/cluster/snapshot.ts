/**
 * A daemon in chunks of bytes: its state and its heap, page by page, without the pages that are all zero.
 *
 *     0       4                       4100
 *     +-------+---- - - - ----+-------+---- - - - ----+
 *     |number | page          |number | page          |    the pages of the state come first
 *     +-------+---- - - - ----+-------+---- - - - ----+
 */

import { PAGE } from "../../heap/metadata.ts";
import type { State } from "../state.ts";

const RECORD = 4 + PAGE;
/** About as much as the cluster takes in one go without others noticing. */
const PAGES_IN_CHUNK = 128;
export const MOST_IN_CHUNK = PAGES_IN_CHUNK * RECORD;

/** What a daemon is made of. */
export interface Parts {
  readonly state: State;
  readonly memory: WebAssembly.Memory;
}

/** Makes the chunks one by one; a chunk may be used until the next one is asked for. */
export function* takeSnapshot({ state, memory }: Parts): Generator<Uint8Array> {
  const chunk = new Uint8Array(MOST_IN_CHUNK);
  const view = new DataView(chunk.buffer);
  const known = bytesOf(state);
  const heap = new Uint8Array(memory.buffer);
  const { dirty } = state.heap;
  let at = 0;
  const statePages = known.length / PAGE;
  for (let page = 0; page < statePages + dirty.length; page++) {
    const inHeap = page >= statePages;
    if (inHeap && dirty[page - statePages] === 0) continue;
    const from = (inHeap ? page - statePages : page) * PAGE;
    const bytes = (inHeap ? heap : known).subarray(from, from + PAGE);
    if (isZero(bytes)) continue;
    view.setUint32(at, page);
    chunk.set(bytes, at + 4);
    at += RECORD;
    if (at < chunk.length) continue;
    yield chunk.slice();
    at = 0;
  }
  if (at > 0) yield chunk.slice(0, at);
}

/** Puts a chunk where it was taken from; the daemon's parts are zero where no chunk has anything. */
export function restore({ state, memory }: Parts, chunk: Uint8Array): void {
  const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length);
  const known = bytesOf(state);
  const heap = new Uint8Array(memory.buffer);
  const statePages = known.length / PAGE;
  for (let at = 0; at + RECORD <= chunk.length; at += RECORD) {
    const page = view.getUint32(at);
    const bytes = chunk.subarray(at + 4, at + RECORD);
    if (page < statePages) known.set(bytes, page * PAGE);
    else heap.set(bytes, (page - statePages) * PAGE);
  }
}

/** All of the state that outlives a process: one memory, of whole pages. */
export function bytesOf({ memory }: State): Uint8Array {
  return new Uint8Array(memory.buffer);
}

function isZero(page: Uint8Array): boolean {
  const words = new Int32Array(page.buffer, page.byteOffset, page.length / 4);
  return words.every((word) => word === 0);
}
