/**
 * Stored procedures: WebAssembly that clients install and call, and that runs in the heap, alone, between
 * two requests. What a module must be is in docs/procedures.md; meter.ts sees to it that it ends in time
 * and leaves the heap sound. Calling makes no garbage, installing does.
 *
 * The start of the heap is theirs, and no client is given it: so offset 0 is nobody's, as NULL should be.
 *
 *     0                                     60 KiB       64 KiB
 *     +-------------------------------------+------------+- - -
 *     |         <- the stack grows          | arguments  | blocks
 *     +-------------------------------------+------------+- - -
 *
 * A handle is made of the bytes of its module. So it never means anything else; who is told that it is
 * nobody's, since the daemon was restarted or somebody uninstalled it, installs it again.
 */

import { type Heap, type Inside, NULL, type Span } from "../../heap/heap.ts";
import { MAX_ARGUMENTS, MAX_MODULE, MAX_PROCEDURES, RESERVED } from "./limits.ts";
import { checkSections, MAP_IMPORT, meter, type Metered } from "./meter.ts";
import type { Quota } from "../quota.ts";
import { Refusal } from "../refusal.ts";

const ARGUMENTS = RESERVED - MAX_ARGUMENTS;
const STACK_TOP = ARGUMENTS;

/** What a call of malloc, free or realloc takes, and how much clearing or moving one unit pays for. */
const HOST_FUEL = 256;
const BYTES_PER_FUEL = 16;
/** A unit of fuel takes so much of the time that a turn has as does clearing so many bytes. */
const WORK_PER_FUEL = 4;
/** What installing takes: all that a turn has. */
const INSTALL_WORK = 4 * 1024 ** 2;

/**
 * 8 KiB of stack, about four times what the allocator needs. A procedure that has used up the stack is
 * trapped here, and not amidst a change that would then be half done.
 */
const STACK_PROBE: readonly number[] = new Array(1024).fill(0);
const nothing = () => {};

type Entry = (fuel: number, args: number, length: number) => number;

/** What a metered module exports. */
interface Exports {
  readonly run: Entry;
  /** Takes fuel only, and gives nothing. */
  readonly begin: Entry;
  readonly fuel: WebAssembly.Global;
}

/** A procedure that is installed. */
interface Procedure {
  readonly module: Uint8Array;
  /** The block of its static data; its address is NULL if it has none. */
  readonly data: Span;
  readonly fuel: WebAssembly.Global;
  readonly run: Entry;
}

export class Procedures {
  readonly #heap: Heap;
  readonly #inside: Inside;
  readonly #quota: Quota | undefined;
  readonly #fuel: number;
  readonly #slots: (Procedure | undefined)[] = new Array(MAX_PROCEDURES).fill(undefined);
  /** Of each slot the handle, 0 if nothing is there: a field that is read as a double would be boxed. */
  readonly #handles = new Float64Array(MAX_PROCEDURES);
  readonly #stackPointer = new WebAssembly.Global({ value: "i32", mutable: true }, STACK_TOP);
  readonly #functions = {
    malloc: (length: number) => this.#malloc(length),
    free: (offset: number) => this.#free(offset),
    realloc: (offset: number, length: number) => this.#realloc(offset, length),
  };
  /** Of the procedure that runs: its fuel, and who called it. */
  #running: WebAssembly.Global | undefined;
  #source = 0;
  readonly #span: Span = { pointer: 0, length: 0 };
  /** Of what was not refused: the handle of an installation, the result of a call. */
  value = 0;
  /** Why the last module that was refused was. */
  reason = "";

  /** `fuel` for each call. The heap must have RESERVED bytes reserved. */
  constructor(fuel: number, heap: Heap, quota: Quota | undefined) {
    if (heap.inside === undefined) throw new TypeError("The heap of procedures must have a state");
    this.#fuel = fuel;
    this.#heap = heap;
    this.#inside = heap.inside;
    this.#quota = quota;
  }

  /**
   * Installs a copy of the module that lies at the span, on the quota of `source`, and sets `value`. It may
   * be installed already. If it is not executable, `reason` says why.
   */
  install(span: Span, source: number): Refusal {
    if (span.length > MAX_MODULE) {
      this.reason = `its ${span.length} bytes are over ${MAX_MODULE}`;
      return Refusal.notExecutable;
    }
    const module = this.#heap.copyOf(span);
    if (module === undefined) return Refusal.outsideHeap;
    const handle = handleOf(module);
    const known = this.#slots[this.#find({ pointer: handle, length: 0 })];
    if (known !== undefined) {
      this.value = handle;
      if (areEqual(known.module, module)) return Refusal.none;
      this.reason = "another module has its handle: change a byte";
      return Refusal.notExecutable;
    }
    if (!this.#slots.includes(undefined)) return Refusal.tooManyProcedures;
    if (this.#heap.budget[0]! <= 0) return Refusal.overBudget;
    this.#source = source;
    const refusal = this.#load(handle, module);
    this.#heap.budget[0]! -= INSTALL_WORK;
    return refusal;
  }

  /** Uninstalls the procedure whose handle is the span's `pointer`. */
  uninstall(span: Span): Refusal {
    const slot = this.#find(span);
    const procedure = this.#slots[slot];
    if (procedure === undefined) return Refusal.notInstalled;
    this.#slots[slot] = undefined;
    this.#handles[slot] = 0;
    this.#release(procedure.data);
    return Refusal.none;
  }

  /**
   * Calls the procedure whose handle is the span's `pointer` with its `length` bytes, which lie at `at` of
   * the I/O memory, for `source`, and sets `value`. What it did before it was trapped, or out of fuel, stays
   * done.
   */
  call(span: Span, at: number, source: number): Refusal {
    const procedure = this.#slots[this.#find(span)];
    if (procedure === undefined) return Refusal.notInstalled;
    if (span.length > MAX_ARGUMENTS) return Refusal.argumentsTooLong;
    if (this.#heap.budget[0]! <= 0) return Refusal.overBudget;
    const length = span.length | 0;
    this.#heap.put(ARGUMENTS, at, length);
    this.#source = source;
    return this.#enter(procedure, procedure.run, length);
  }

  /** The slot of the span's handle; MAX_PROCEDURES, which is none, if that is not installed. */
  #find(span: Span): number {
    if (span.pointer === 0) return MAX_PROCEDURES;
    for (let i = 0; i < MAX_PROCEDURES; i++) {
      const slot = (span.pointer + i) & (MAX_PROCEDURES - 1);
      if (this.#handles[slot] === span.pointer) return slot;
    }
    return MAX_PROCEDURES;
  }

  /** Runs a procedure, and takes the time that it took out of the turn's. */
  #enter({ fuel }: Procedure, entry: Entry, length: number): Refusal {
    const { budget } = this.#heap;
    const left = budget[0]!;
    let refusal: Refusal = Refusal.none;
    this.#running = fuel;
    try {
      this.value = entry(this.#fuel, ARGUMENTS, length) >>> 0;
    } catch {
      refusal = fuel.value < 0 ? Refusal.outOfFuel : Refusal.trapped;
    }
    // What would have taken more than there was, 4 GiB to fill for example, was not begun.
    budget[0] = left - WORK_PER_FUEL * (this.#fuel - Math.max(fuel.value, 0));
    return refusal;
  }

  /** Makes a procedure of a module, puts it into a slot that is free, and sets `value`. */
  #load(handle: number, module: Uint8Array<ArrayBuffer>): Refusal {
    const data: Span = { pointer: NULL, length: 0 };
    let instance: WebAssembly.Instance;
    try {
      checkSections(module);
      if (!WebAssembly.validate(module)) new WebAssembly.Module(module); // throws, and says why
      const metered = meter(module, this.#inside, STACK_TOP);
      const compiled = new WebAssembly.Module(metered.code);
      data.length = metered.dataLength;
      if (data.length > 0) {
        const refusal = this.#allocate(data);
        if (refusal !== Refusal.none) return refusal;
        this.#heap.markDirty(data);
      }
      instance = new WebAssembly.Instance(compiled, this.#imports(metered, data));
    } catch (error) {
      this.#release(data);
      this.reason = (error as Error).message;
      return Refusal.notExecutable;
    }
    const { run, begin, fuel } = instance.exports as unknown as Exports;
    const procedure = { module, data, fuel, run };
    const refusal = this.#enter(procedure, begin, 0);
    if (refusal !== Refusal.none) {
      this.#release(data);
      return refusal;
    }
    let slot = handle & (MAX_PROCEDURES - 1);
    while (this.#slots[slot] !== undefined) slot = (slot + 1) & (MAX_PROCEDURES - 1);
    this.#slots[slot] = procedure;
    this.#handles[slot] = handle;
    this.value = handle;
    return Refusal.none;
  }

  /** What a metered module may import. Element 0 of a table is no function, as NULL should be none. */
  #imports({ tableLength }: Metered, { pointer }: Span): WebAssembly.Imports {
    const { memory, map } = this.#inside;
    const length = tableLength + 1;
    return {
      env: {
        memory,
        ...this.#functions,
        __memory_base: pointer === NULL ? 0 : this.#offsetOf(pointer),
        __table_base: 1,
        __stack_pointer: this.#stackPointer,
        __indirect_function_table: new WebAssembly.Table({ element: "anyfunc", initial: length }),
      },
      [MAP_IMPORT.module]: { [MAP_IMPORT.name]: map },
    };
  }

  /** `malloc` of a procedure: the offset of a block, 0 if there is none. Offsets come and go as i32. */
  #malloc(length: number): number {
    this.#prepare();
    const span = this.#span;
    span.length = length >>> 0;
    return this.#settle(this.#allocate(span));
  }

  #free(offset: number): void {
    this.#prepare();
    this.#span.pointer = this.#pointerTo(offset);
    this.#release(this.#span);
    this.#settle(Refusal.none);
  }

  #realloc(offset: number, length: number): number {
    this.#prepare();
    const span = this.#span;
    span.pointer = this.#pointerTo(offset);
    span.length = length >>> 0;
    return this.#settle(
      this.#quota === undefined
        ? this.#heap.realloc(span)
        : this.#quota.realloc(span, this.#source),
    );
  }

  #allocate(span: Span): Refusal {
    if (this.#quota === undefined) return this.#heap.malloc(span);
    return this.#quota.malloc(span, this.#source);
  }

  #release(span: Span): Refusal {
    return this.#quota === undefined ? this.#heap.free(span) : this.#quota.free(span);
  }

  /** Before the heap is changed for a procedure: there must be stack for it, and fuel is what it may take. */
  #prepare(): void {
    Reflect.apply(nothing, undefined, STACK_PROBE);
    const fuel = this.#running!.value - HOST_FUEL;
    this.#running!.value = fuel;
    this.#heap.budget[0] = fuel * BYTES_PER_FUEL;
  }

  /** After it: what was cleared and moved is paid for. Returns the offset that came of it. */
  #settle(refusal: Refusal): number {
    const { budget } = this.#heap;
    this.#running!.value = Math.floor(budget[0]! / BYTES_PER_FUEL);
    const { pointer } = this.#span;
    return refusal !== Refusal.none || pointer === NULL ? NULL : this.#offsetOf(pointer);
  }

  /** NULL is the offset 0. */
  #pointerTo(offset: number): number {
    return offset === 0 ? NULL : this.#heap.base + (offset >>> 0);
  }

  /** As an i32, negative from 2 GiB on. */
  #offsetOf(pointer: number): number {
    return (pointer - this.#heap.base) | 0;
  }
}

/** The first 64 bits of the SHA-256 of a module but the upper 12, so that a double holds it; never 0. */
function handleOf(module: Uint8Array): number {
  // An import would load Node's cryptography at each start: some milliseconds, for who installs nothing.
  // deno-lint-ignore no-process-global
  const { createHash } = process.getBuiltinModule("node:crypto");
  const digest = createHash("sha256").update(module).digest();
  const view = new DataView(digest.buffer, digest.byteOffset);
  return (view.getUint32(0) & 0xfffff) * 2 ** 32 + view.getUint32(4) || 1;
}

function areEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
