/**
 * What makes a request whole or nothing although its process may be killed between any two stores: a log
 * of what was there before (an undo log: Gray and Reuter, Transaction Processing, 1993, chapter 9). Memory
 * that is a file's outlives the process, as it was at that instant, and so does the log in it.
 *
 *     log    [ count | - | at | old | at | old | at | old | ...          32-bit words of the metadata
 *     saved  [ offset, low | offset, high | length | - | bytes ... ]     of the heap, 16 bytes and the rest
 *
 * Before a word of the metadata is stored, `note` appends where it is and what it was; before bytes of
 * clients are, `save` appends a copy of them to `saved`, and to the log SAVED and where that copy begins.
 * The count is the last to be stored. When all is done, the reply in the duplicate request cache included,
 * `commit` sets the count to 0, which is one store: the request has happened. Whoever finds a count that
 * is not 0 calls `rollback`, which puts back everything in reverse; to be killed within that does no harm,
 * since the next one begins again.
 *
 * Stores of one thread reach memory in the order of the program, and a killed process has made all before
 * one of them and none after it. None of it makes garbage. Memory that nobody owns is not saved: it
 * promises nothing to anybody.
 */

import { type Bulk, bulk } from "./bulk.ts";
import type { Changes } from "./changes.ts";
import { type Arrays, type Fault, faultAt, int32, PAGE, WASM_PAGE } from "./metadata.ts";

/** Far more than any request can store: some 40 words for each order of the buddy and 100 for its reply. */
const MAX_NOTES = 8192;
const COUNT = 0;
/** What is in front of the notes. */
export const HEAD_WORDS = 2;
const NOTE_WORDS = 2;
/** In place of where a word is. */
const SAVED = -1;
const SAVED_HEAD = 16;

/** The arrays of an undo log. */
export function undoShape() {
  return { log: int32(HEAD_WORDS + NOTE_WORDS * MAX_NOTES) };
}

/** A memory in which so many bytes of clients can be saved, in pieces of which few are short of a page. */
export function newSavedMemory(bytes: number): WebAssembly.Memory {
  const pieces = bytes / PAGE + 16;
  const pages = Math.ceil((bytes + pieces * (SAVED_HEAD + 8)) / WASM_PAGE);
  return new WebAssembly.Memory({ initial: pages, maximum: pages });
}

/**
 * What could not be put back of what is in a log, because it is not what anybody has noted; undefined if all
 * can be. The heap has so many bytes.
 */
export function findLogFault(
  { log }: Arrays<ReturnType<typeof undoShape>>,
  saved: WebAssembly.Memory,
  heap: number,
): Fault | undefined {
  const words = log.buffer.byteLength / 4;
  const heads = new Int32Array(saved.buffer);
  const count = log[COUNT]!;
  if (count < 0 || count > MAX_NOTES) return faultAt(`the undo log has ${count} notes`, log, COUNT);
  for (let i = 0; i < count; i++) {
    const note = HEAD_WORDS + NOTE_WORDS * i;
    const [at, old] = [log[note]!, log[note + 1]!];
    const isWord = at >= 0 && at < words;
    if (isWord || at === SAVED && isPiece(heads, old, heap)) continue;
    return faultAt(`note ${i} of the undo log is of nothing that there is`, log, note);
  }
  return undefined;
}

/** Whether there is a copy at a place among what was saved, of bytes that the heap has. */
function isPiece(heads: Int32Array, at: number, heap: number): boolean {
  const room = heads.byteLength - SAVED_HEAD - at;
  if (at < 0 || at % 8 !== 0 || room < 0) return false;
  const head = at >>> 2;
  const offset = heads[head + 1]! * 2 ** 32 + (heads[head]! >>> 0);
  const length = heads[head + 2]!;
  return offset >= 0 && length >= 0 && length <= room && offset + length <= heap;
}

export class Undo {
  /** Who wants to know of all that changes in the file, if it is one. */
  readonly changes: Changes | undefined;
  readonly #log: Int32Array;
  /** All of the memory that the log is in: what can be noted is in the same. */
  readonly #words: Int32Array;
  /** All of `saved`, for the heads in it. */
  readonly #heads: Int32Array;
  readonly #bulk: Bulk;
  /** Where the next copy goes. */
  #end = 0;
  /** What the log says, too: it is faster to know it. */
  #count = 0;

  constructor(
    { log }: Arrays<ReturnType<typeof undoShape>>,
    saved: WebAssembly.Memory,
    heap: WebAssembly.Memory,
    changes?: Changes,
  ) {
    this.changes = changes;
    this.#log = log;
    this.#words = new Int32Array(log.buffer);
    this.#heads = new Int32Array(saved.buffer);
    this.#bulk = bulk(heap, saved);
  }

  /** To be called before `array[index]` is stored. */
  note(array: Int32Array, index: number): void {
    this.#append((array.byteOffset >>> 2) + index, array[index]!);
  }

  /** The same for a shorter element: of the word that it is part of. */
  noteHalf(array: Uint16Array, index: number): void {
    const at = (array.byteOffset >>> 2) + (index >>> 1);
    this.#append(at, this.#words[at]!);
  }

  /**
   * To be called instead, in the same turn, for elements that need not be put back, no more than a page of
   * them: only who copies the file meanwhile has to know that they have changed.
   */
  skip(array: Int32Array, index: number, count: number): void {
    const { changes } = this;
    if (changes === undefined || changes.round === 0) return;
    const first = (array.byteOffset >>> 2) + index;
    changes.word(first);
    changes.word(first + count - 1);
  }

  /**
   * To be called before `length` bytes at an offset of the heap are stored, which is given as bulk.ts has it:
   * a double would be boxed.
   */
  save(low: number, high: number, length: number): void {
    const at = this.#end;
    const from = at + SAVED_HEAD;
    if (from + length > this.#heads.byteLength) {
      throw new Error("The undo log has no room for bytes");
    }
    this.#heads[at >>> 2] = low;
    this.#heads[(at >>> 2) + 1] = high;
    this.#heads[(at >>> 2) + 2] = length;
    this.#bulk.load(from, low, high, length);
    this.#append(SAVED, at);
    this.#end = (from + length + 7) & ~7;
  }

  /** All that was noted and saved has happened. */
  commit(): void {
    if (this.#count === 0) return;
    if (this.changes !== undefined && this.changes.round !== 0) this.#tell(this.changes);
    this.#count = 0;
    this.#log[COUNT] = 0;
    this.#end = 0;
  }

  /** All that is in the log has changed. */
  #tell(changes: Changes): void {
    for (let i = 0; i < this.#count; i++) {
      const at = this.#log[HEAD_WORDS + NOTE_WORDS * i]!;
      if (at !== SAVED) {
        changes.word(at);
        continue;
      }
      const saved = this.#log[HEAD_WORDS + NOTE_WORDS * i + 1]!;
      const head = saved >>> 2;
      const offset = this.#heads[head + 1]! * 2 ** 32 + (this.#heads[head]! >>> 0);
      const end = offset + this.#heads[head + 2]!;
      changes.heap((offset / PAGE) | 0, ((end - 1) / PAGE) | 0);
    }
  }

  /**
   * Puts back what was noted and saved since the last `commit`, and tells of each stretch of bytes that it
   * put back.
   */
  rollback(restored: (offset: number, length: number) => void): void {
    const count = this.#log[COUNT]!;
    this.#count = count;
    for (let i = count - 1; i >= 0; i--) {
      const at = this.#log[HEAD_WORDS + NOTE_WORDS * i]!;
      const old = this.#log[HEAD_WORDS + NOTE_WORDS * i + 1]!;
      if (at !== SAVED) {
        this.#words[at] = old;
        continue;
      }
      const head = old >>> 2;
      const [lower, upper] = [this.#heads[head]!, this.#heads[head + 1]!];
      const length = this.#heads[head + 2]!;
      restored(upper * 2 ** 32 + (lower >>> 0), length);
      this.#bulk.store(lower, upper, old + SAVED_HEAD, length);
    }
    this.commit();
  }

  #append(at: number, old: number): void {
    const count = this.#count;
    if (count === MAX_NOTES) throw new Error("The undo log has no room for words");
    this.#log[HEAD_WORDS + NOTE_WORDS * count] = at;
    this.#log[HEAD_WORDS + NOTE_WORDS * count + 1] = old;
    this.#count = count + 1;
    this.#log[COUNT] = count + 1;
  }
}
