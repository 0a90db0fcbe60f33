/**
 * Makes a module fit to run in the heap, between two requests: one that ends in time, reaches nothing but
 * the heap, and leaves the heap's own knowledge true. It is rewritten:
 *
 * - **Fuel.** At the entry of each function and at each loop's header, as many units are taken off as there
 *   are instructions from there on that no inner loop has; below zero it traps. Whatever runs for long
 *   passes one of these again and again. Filling and copying take a unit for each 16 bytes as well.
 * - **A store barrier.** Before each store, the pages that it writes are marked in the heap's map of dirty
 *   pages, a second memory that no instruction of the module's own can name. The usual case is a load. It
 *   is before, because to mark is a call, for which there may be no stack left.
 * - **Entries.** What the module exports is replaced by `run` and `begin`, which fill up the fuel and set
 *   the stack pointer, and by `fuel`, which tells why a run was trapped.
 *
 * What it was not made for is refused by name: see docs/procedures.md for the list. The module has been
 * validated by V8 before, so that indices, types and nesting are what they should be.
 */

import { Cursor, ModuleRefused, Sink } from "./bytes.ts";
import { CLEAN, DIRTY } from "../../heap/reclaim.ts";

/** What the heap knows of its pages, in a memory of its own. */
export interface DirtyMap {
  /** Where the bytes lie that say of each page whether it is CLEAN, DIRTY or something else without bit 0. */
  readonly pagesAt: number;
  /** Where the 16-bit numbers lie that count by regions those which are not CLEAN. */
  readonly regionsAt: number;
  /** Logarithms: bytes of a page, pages of a region. */
  readonly pageShift: number;
  readonly regionShift: number;
}

/** A module that may run. */
export interface Metered {
  readonly code: Uint8Array<ArrayBuffer>;
  /** Bytes of static data, which begin at `env.__memory_base`. */
  readonly dataLength: number;
  /** Elements of `env.__indirect_function_table`, from `env.__table_base` on. */
  readonly tableLength: number;
}

/** Limits of a memory: shared, and at most 65,536 pages. */
const SHARED = [3, 0, 0x80, 0x80, 0x04];

/** What a metered module imports beside what it did before: the memory in which the dirty map lies. */
export const MAP_IMPORT = { module: "mallocd", name: "dirty" } as const;

/** The most that a module may have: elements in its tables, locals in a function. */
export const MAX_TABLE = 4096;
export const MAX_LOCALS = 1000;
/**
 * And blocks and targets of branches, each times the locals of its function: V8 looks at every local at
 * each of them when a function is first called, so that a module of 64 KiB could take it a second.
 */
const MAX_MERGES = 500_000;

/** Data is where malloc puts it: aligned to 16 bytes. */
const MAX_ALIGNMENT = 4;

const Section = {
  custom: 0,
  type: 1,
  import: 2,
  function: 3,
  table: 4,
  memory: 5,
  global: 6,
  export: 7,
  start: 8,
  element: 9,
  code: 10,
  data: 11,
  dataCount: 12,
  tag: 13,
} as const;

/** Magic and version. */
const HEAD = [...new TextEncoder().encode("\0asm"), 1, 0, 0, 0];
const VERSION_AT = 4;

const Kind = { function: 0, table: 1, memory: 2, global: 3 } as const;

const [I32, I64, F32, F64] = [0x7f, 0x7e, 0x7d, 0x7c] as const;
const FUNCTION = 0x60;
const FUNCREF = 0x70;
const NO_RESULT = 0x40;

/** Instructions that are looked at or written here (WebAssembly 2.0, section 5.4). */
const Op = {
  unreachable: 0x00,
  nop: 0x01,
  block: 0x02,
  loop: 0x03,
  if: 0x04,
  else: 0x05,
  end: 0x0b,
  br: 0x0c,
  brIf: 0x0d,
  brTable: 0x0e,
  return: 0x0f,
  call: 0x10,
  callIndirect: 0x11,
  drop: 0x1a,
  select: 0x1b,
  localGet: 0x20,
  localSet: 0x21,
  localTee: 0x22,
  globalGet: 0x23,
  globalSet: 0x24,
  i32Load: 0x28,
  i32Load8: 0x2d,
  i32Load16: 0x2f,
  i32Store: 0x36,
  i32Store8: 0x3a,
  i32Store16: 0x3b,
  i64Store32: 0x3e,
  memorySize: 0x3f,
  i32Const: 0x41,
  i64Const: 0x42,
  f32Const: 0x43,
  f64Const: 0x44,
  i32Eqz: 0x45,
  i32Eq: 0x46,
  i32LtS: 0x48,
  i32LeU: 0x4d,
  i32Add: 0x6a,
  i32Sub: 0x6b,
  i32And: 0x71,
  i32Shl: 0x74,
  i32ShrU: 0x76,
  last: 0xc4,
  prefix: 0xfc,
} as const;

/** After Op.prefix. */
const Bulk = { lastConversion: 7, init: 8, drop: 9, copy: 10, fill: 11 } as const;

/** Of each store, from i32.store on: how many bytes it writes, and the type of what it writes. */
const STORES: readonly (readonly [bytes: number, type: number])[] = [
  [4, I32],
  [8, I64],
  [4, F32],
  [8, F64],
  [1, I32],
  [2, I32],
  [1, I64],
  [2, I64],
  [4, I64],
];

/** Temporaries of a function that stores: the address, then a value of each type, then address and offset. */
const TEMPORARIES = [I32, I32, I64, F32, F64, I32] as const;
const PLACE = TEMPORARIES.length - 1;

/** Instructions that somebody may have used and that are refused, by what they are called. */
const REFUSED: Readonly<Record<number, string>> = {
  0x06: "try",
  0x08: "throw",
  0x0a: "throw_ref",
  0x12: "return_call",
  0x13: "return_call_indirect",
  0x14: "call_ref",
  0x1c: "select with a type",
  0x1f: "try_table",
  0x25: "table.get",
  0x26: "table.set",
  0x40: "memory.grow",
  0xd0: "ref.null",
  0xd1: "ref.is_null",
  0xd2: "ref.func",
  0xfb: "an instruction of garbage collection",
  0xfd: "a vector instruction",
  0xfe: "an atomic instruction",
};
const REFUSED_BULK: Readonly<Record<number, string>> = {
  12: "table.init",
  13: "elem.drop",
  14: "table.copy",
  15: "table.grow",
  16: "table.size",
  17: "table.fill",
};

/** What may be imported from `env`: functions by their type, globals by type and whether they may change. */
const FUNCTIONS: Readonly<Record<string, string>> = {
  malloc: "i32 -> i32",
  free: "i32 ->",
  realloc: "i32 i32 -> i32",
};
const GLOBALS: Readonly<Record<string, readonly [type: number, mutable: number]>> = {
  __memory_base: [I32, 0],
  __table_base: [I32, 0],
  __stack_pointer: [I32, 1],
};
const TABLE = "__indirect_function_table";

/** What runs once, before the first call: LLVM's relocations, then constructors. */
const BEGINNERS = ["__wasm_apply_data_relocs", "__wasm_call_ctors", "_initialize"];

/** A stack that a module lays out itself begins above its data, which begins here (LLVM). */
const FIRST_STACK = 1024;

const TYPE_NAMES: Readonly<Record<number, string>> = {
  [I32]: "i32",
  [I64]: "i64",
  [F32]: "f32",
  [F64]: "f64",
};

/**
 * The module as it may run. `stackTop` is where its stack begins, in the heap. Throws ModuleRefused if it
 * may not run. `module` must be valid.
 */
export function meter(module: Uint8Array, map: DirtyMap, stackTop: number): Metered {
  return new Meter(module, map, stackTop).result();
}

class Meter {
  readonly #map: DirtyMap;
  readonly #stackTop: number;
  /** Sections as they will be written. Those which are not here are left out. */
  readonly #sections = new Map<number, Sink>();
  /** By number of a type: its parameters and results, in words, and how many parameters there are. */
  readonly #types: { text: string; parameters: number }[] = [];
  /** By number of a function, imported ones first: its type. */
  readonly #functions: number[] = [];
  #imported = 0;
  #globals = 0;
  #memories = 0;
  #tableElements = 0;
  #importedTable = 0;
  /** By number of a global: where a stack of the module's own would begin. */
  readonly #stacks = new Map<number, number>();
  #memoryBase = -1;
  #stackPointer = -1;
  readonly #exports = new Map<string, { index: number; at: number }>();
  #start = -1;
  #dataLength = 0;
  #merges = 0;
  /** Data segments that memory.init is used with, in the order in which their functions are added. */
  readonly #inits: number[] = [];

  constructor(module: Uint8Array, map: DirtyMap, stackTop: number) {
    this.#map = map;
    this.#stackTop = stackTop;
    let sawImports = false;
    for (const { id, at, start, end } of sectionsOf(module)) {
      if (id !== Section.custom && id > Section.import && !sawImports) {
        sawImports = true;
        this.#imports(undefined);
      }
      sawImports ||= id === Section.import;
      const within = new Cursor(module.subarray(0, end));
      within.at = start;
      this.#section(id, within, at);
    }
  }

  #section(id: number, cursor: Cursor, at: number): void {
    switch (id) {
      case Section.custom:
        return this.#custom(cursor);
      case Section.type:
        return this.#typeSection(cursor);
      case Section.import:
        return this.#imports(cursor);
      case Section.function:
        return each(cursor, () => this.#functions.push(cursor.u32()));
      case Section.table:
        return this.#tables(cursor);
      case Section.memory:
        return each(cursor, (at) => refuse("it has a memory of its own", at));
      case Section.global:
        return this.#globalSection(cursor);
      case Section.export:
        return this.#exportSection(cursor);
      case Section.start:
        this.#start = cursor.u32();
        return;
      case Section.element:
      case Section.dataCount:
        this.#sections.set(id, new Sink().copy(cursor.bytes.subarray(cursor.at)));
        return;
      case Section.code:
        return this.#code(cursor, at);
      case Section.data:
        return this.#data(cursor);
      case Section.tag:
        return refuse("it has exceptions", at);
      default:
        return refuse(`it has a section ${id}`, at);
    }
  }

  result(): Metered {
    const code = new Sink().put(...HEAD);
    const { type, function: functions, table, global, export: exports } = Section;
    const order = [type, Section.import, functions, table, global, exports, Section.element];
    for (const id of [...order, Section.dataCount, Section.code, Section.data]) {
      const content = this.#sections.get(id);
      if (content !== undefined) code.section(id, content);
    }
    return {
      code: new Uint8Array(code.bytes),
      dataLength: this.#dataLength,
      tableLength: this.#importedTable,
    };
  }

  /** What LLVM's linker says of a module that can lie anywhere: `dylink.0`. Others are left out. */
  #custom(cursor: Cursor): void {
    if (cursor.text() !== "dylink.0") return;
    while (!cursor.isAtEnd) {
      const at = cursor.at;
      const kind = cursor.byte();
      const end = cursor.u32() + cursor.at;
      if (kind === 1) {
        this.#dataLength = Math.max(this.#dataLength, cursor.u32());
        const alignment = cursor.u32();
        if (alignment > MAX_ALIGNMENT) {
          refuse(`its data is aligned to ${2 ** alignment} bytes, more than 16`, at);
        }
        this.#takeTable(cursor.u32(), at);
      } else if (kind === 2 && cursor.u32() > 0) {
        refuse(`it needs another module, ${cursor.text()}`, at);
      }
      cursor.at = end;
    }
  }

  #typeSection(cursor: Cursor): void {
    const sink = new Sink();
    const from = cursor.at;
    each(cursor, (at) => {
      if (cursor.byte() !== FUNCTION) refuse("it has a type that is no function's", at);
      const [parameters, results] = [this.#valueTypes(cursor), this.#valueTypes(cursor)];
      if (results.length > 1) refuse("it has a function with more than one result", at);
      const text = `${parameters.join(" ")} -> ${results.join(" ")}`.trim();
      this.#types.push({ text, parameters: parameters.length });
    });
    const count = new Cursor(cursor.bytes);
    count.at = from;
    const own = count.u32();
    sink.u32(own + ADDED_TYPES.length).copy(cursor.bytes.subarray(count.at));
    for (const [parameters, results] of ADDED_TYPES) {
      sink.put(FUNCTION).u32(parameters.length).put(...parameters);
      sink.u32(results.length).put(...results);
    }
    this.#sections.set(Section.type, sink);
  }

  #valueTypes(cursor: Cursor): string[] {
    const names: string[] = [];
    each(cursor, (at) => names.push(this.#valueType(cursor.byte(), at)));
    return names;
  }

  #valueType(type: number, at: number): string {
    return TYPE_NAMES[type] ?? refuse("it has a type that is not i32, i64, f32 or f64", at);
  }

  /** The imports, which must be known, and the two memories. The heap is the first, the map the second. */
  #imports(cursor: Cursor | undefined): void {
    const sink = new Sink();
    let count = 0;
    const add = (module: string, name: string, kind: number) => {
      count++;
      return sink.text(module).text(name).put(kind);
    };
    if (cursor !== undefined) {
      each(cursor, (at) => {
        const module = cursor.text();
        const name = cursor.text();
        const kind = cursor.byte();
        const from = cursor.at;
        const isKnown = module === "env" && this.#import(cursor, name, kind, at);
        if (!isKnown) refuse(`it imports ${module}.${name}, which procedures do not have`, at);
        if (kind === Kind.memory) add(module, name, kind).put(...SHARED);
        else if (kind === Kind.table) add(module, name, kind).put(FUNCREF, 0, 0);
        else add(module, name, kind).copy(cursor.since(from));
      });
    }
    if (this.#memories === 0) add("env", "memory", Kind.memory).put(...SHARED);
    add(MAP_IMPORT.module, MAP_IMPORT.name, Kind.memory).put(...SHARED);
    this.#sections.set(Section.import, new Sink().u32(count).copy(sink.bytes));
  }

  /** Takes note of an import; false if there is none of that name. */
  #import(cursor: Cursor, name: string, kind: number, at: number): boolean {
    if (kind === Kind.function) {
      const type = cursor.u32();
      const { text } = this.#types[type]!;
      const wanted = Object.hasOwn(FUNCTIONS, name) ? FUNCTIONS[name] : undefined;
      if (wanted === undefined) return false;
      if (text !== wanted) refuse(`it imports env.${name} as ${text}, not as ${wanted}`, at);
      this.#functions.push(type);
      this.#imported++;
    } else if (kind === Kind.table) {
      if (cursor.byte() !== FUNCREF || name !== TABLE) return false;
      this.#takeTable(limits(cursor), at);
    } else if (kind === Kind.memory) {
      if (name !== "memory") return false;
      if (this.#memories++ > 0) refuse("it has more than one memory", at);
      limits(cursor);
    } else if (kind === Kind.global) {
      const [type, mutable] = Object.hasOwn(GLOBALS, name) ? GLOBALS[name]! : [];
      if (type === undefined) return false;
      if (cursor.byte() !== type || cursor.byte() !== mutable) {
        refuse(`it imports env.${name} as another kind of global`, at);
      }
      if (name === "__memory_base") this.#memoryBase = this.#globals;
      if (name === "__stack_pointer") this.#stackPointer = this.#globals;
      this.#globals++;
    } else return false;
    return true;
  }

  #takeTable(elements: number, at: number): void {
    this.#importedTable = Math.max(this.#importedTable, elements);
    this.#checkTables(at);
  }

  #checkTables(at: number): void {
    const elements = this.#importedTable + this.#tableElements;
    if (elements > MAX_TABLE) refuse(`its tables have ${elements} elements, over ${MAX_TABLE}`, at);
  }

  #tables(cursor: Cursor): void {
    const from = cursor.at;
    each(cursor, (at) => {
      if (cursor.byte() !== FUNCREF) refuse("it has a table that is not of functions", at);
      this.#tableElements += limits(cursor);
      this.#checkTables(at);
    });
    this.#sections.set(Section.table, new Sink().copy(cursor.since(from)));
  }

  #globalSection(cursor: Cursor): void {
    const own = cursor.u32();
    const from = cursor.at;
    for (let i = 0; i < own; i++) {
      const at = cursor.at;
      const type = cursor.byte();
      this.#valueType(type, at);
      const mutable = cursor.byte() === 1;
      const value = constant(cursor);
      const isStack = mutable && type === I32 && value.base === -1 && value.number % 16 === 0 &&
        value.number >= FIRST_STACK;
      if (isStack) this.#stacks.set(this.#globals, value.number);
      this.#globals++;
    }
    this.#sections.set(Section.global, new Sink().u32(own + 1).copy(cursor.since(from)));
  }

  #exportSection(cursor: Cursor): void {
    each(cursor, (at) => {
      const name = cursor.text();
      const isFunction = cursor.byte() === Kind.function;
      const index = cursor.u32();
      if (isFunction) this.#exports.set(name, { index, at });
    });
  }

  #data(cursor: Cursor): void {
    const from = cursor.at;
    each(cursor, (at) => {
      const mode = cursor.u32();
      if (mode > 1) refuse("it has more than one memory", at);
      const offset = mode === 0 ? constant(cursor) : undefined;
      const length = cursor.u32();
      cursor.skip(length);
      if (offset === undefined) return;
      if (offset.base === -1 || offset.base !== this.#memoryBase || offset.number < 0) {
        refuse(
          "it has data at an address of its own, not from env.__memory_base on: " +
            "link it as position-independent code",
          at,
        );
      }
      this.#dataLength = Math.max(this.#dataLength, offset.number + length);
    });
    this.#sections.set(Section.data, new Sink().copy(cursor.since(from)));
  }

  /** The code, which is the last but one section: whatever is declared for it is known by now. */
  #code(cursor: Cursor, at: number): void {
    const run = this.#exports.get("run");
    if (run === undefined) refuse("it exports no function run", at);
    const type = this.#types[this.#functions[run.index]!]!.text;
    if (type !== RUN_TYPE) refuse(`its run is ${type}, not ${RUN_TYPE}`, run.at);

    const bodies = new Sink();
    let index = this.#imported;
    each(cursor, () => {
      const end = cursor.u32() + cursor.at;
      bodies.sized(this.#body(cursor, end, this.#types[this.#functions[index++]!]!.parameters));
    });
    const own = index - this.#imported;
    const added = this.#added(run.index);
    for (const body of added) bodies.sized(body.code);
    this.#sections.set(Section.code, new Sink().u32(own + added.length).copy(bodies.bytes));

    const functions = new Sink().u32(own + added.length);
    for (const type of this.#functions.slice(this.#imported)) functions.u32(type);
    for (const { type } of added) functions.u32(this.#types.length + type);
    this.#sections.set(Section.function, functions);

    const globals = this.#sections.get(Section.global) ?? new Sink().u32(1);
    globals.put(I32, 1, Op.i32Const, 0, Op.end);
    this.#sections.set(Section.global, globals);

    const exports = new Sink().u32(3);
    exports.text("run").put(Kind.function).u32(this.#added0 + Added.run);
    exports.text("begin").put(Kind.function).u32(this.#added0 + Added.begin);
    exports.text("fuel").put(Kind.global).u32(this.#fuel);
    this.#sections.set(Section.export, exports);
  }

  /** The number of the global that holds the fuel: the last. */
  get #fuel(): number {
    return this.#globals;
  }

  /** The number of the first function that is added. */
  get #added0(): number {
    return this.#functions.length;
  }

  /** A function's body, metered: its locals, then its instructions up to `end`. */
  #body(cursor: Cursor, end: number, parameters: number): Sink {
    const localsAt = cursor.at;
    const groups = cursor.u32();
    const locals = new Sink();
    let count = parameters;
    for (let i = 0; i < groups; i++) {
      const number = cursor.u32();
      const type = cursor.byte();
      this.#valueType(type, localsAt);
      count += number;
      locals.u32(number).put(type);
    }
    if (count > MAX_LOCALS) refuse(`it has a function with over ${MAX_LOCALS} locals`, localsAt);
    const address = count;
    const code = new Sink();
    /** The loops and other blocks that are open; a loop has a meter of its own. */
    const open: (Gauge | undefined)[] = [];
    const whole = this.#gauge(code, address);
    whole.cost = count;
    const meters = [whole];
    let stores = false;
    while (cursor.at < end) {
      const at = cursor.at;
      const op = cursor.byte();
      const gauge = meters[meters.length - 1]!;
      gauge.cost++;
      if (op >= Op.i32Store && op <= Op.i64Store32) {
        const align = cursor.u32();
        if (align >= 0x40) refuse("it has more than one memory", at);
        const offset = cursor.u32();
        this.#store(code, op, align, offset, address);
        stores = true;
        continue;
      }
      if (op === Op.prefix) {
        this.#prefixed(cursor, code, at);
        continue;
      }
      this.#merges += count * immediates(cursor, op, at);
      if (this.#merges > MAX_MERGES) refuse("it has too many branches for so many locals", at);
      if (op === Op.globalGet || op === Op.globalSet) this.#checkStack(cursor, at);
      code.copy(cursor.since(at));
      if (op === Op.loop) {
        const inner = this.#gauge(code, address);
        meters.push(inner);
        open.push(inner);
      } else if (op === Op.block || op === Op.if) open.push(undefined);
      else if (op === Op.end && open.pop() !== undefined) close(code, meters.pop()!);
    }
    close(code, whole);
    const temporaries = stores ? TEMPORARIES : TEMPORARIES.slice(0, 1);
    const body = new Sink().u32(groups + temporaries.length).copy(locals.bytes);
    for (const type of temporaries) body.put(1, type);
    return body.copy(code.bytes);
  }

  /** A stack that the module has laid out itself would lie over the blocks of others. */
  #checkStack(cursor: Cursor, at: number): void {
    const operand = new Cursor(cursor.bytes);
    operand.at = at + 1;
    const begins = this.#stacks.get(operand.u32());
    if (begins === undefined) return;
    refuse(
      `it has a stack of its own, from ${begins} down: link it as position-independent code`,
      at,
    );
  }

  /** Takes off fuel: how much will be known when the loop, or the function, ends. */
  #gauge(code: Sink, temporary: number): Gauge {
    code.put(Op.globalGet).u32(this.#fuel).put(Op.i32Const);
    const hole = code.hole();
    code.put(Op.i32Sub, Op.localTee).u32(temporary).put(Op.globalSet).u32(this.#fuel);
    code.put(Op.localGet).u32(temporary).put(...TRAP_BELOW_ZERO);
    return { hole, cost: 0 };
  }

  /** The mark on the page that a store begins in and on that which it ends in, and then the store. */
  #store(code: Sink, op: number, align: number, offset: number, address: number): void {
    const [bytes, type] = STORES[op - Op.i32Store]!;
    const value = address + 1 + TEMPORARIES.slice(1).indexOf(type as typeof I32);
    const place = offset === 0 ? address : address + PLACE;
    code.put(Op.localSet).u32(value).put(Op.localTee).u32(address);
    if (offset !== 0) code.put(Op.i32Const).s32(offset | 0).put(Op.i32Add, Op.localTee).u32(place);
    this.#stateOfPage(code);
    if (bytes > 1) {
      code.put(Op.localGet).u32(place).put(Op.i32Const).s32(bytes - 1).put(Op.i32Add);
      this.#stateOfPage(code);
      code.put(Op.i32And);
    }
    code.put(Op.i32Const, DIRTY, Op.i32And, Op.i32Eqz, Op.if, NO_RESULT);
    code.put(Op.localGet).u32(place).put(Op.i32Const).s32(bytes);
    code.put(Op.call).u32(this.#added0 + Added.markDirty).put(Op.end);
    code.put(Op.localGet).u32(address).put(Op.localGet).u32(value);
    code.put(op).u32(align).u32(offset);
  }

  /** From an address to what is known of its page. */
  #stateOfPage(code: Sink): void {
    code.put(Op.i32Const).s32(this.#map.pageShift).put(Op.i32ShrU);
    code.put(Op.i32Load8).put(...ofMap(0)).u32(this.#map.pagesAt);
  }

  /** Conversions, and what moves many bytes: functions that are added do that. */
  #prefixed(cursor: Cursor, code: Sink, at: number): void {
    const op = cursor.u32();
    if (op <= Bulk.lastConversion) code.copy(cursor.since(at));
    else if (op === Bulk.drop) {
      cursor.skipNumber();
      code.copy(cursor.since(at));
    } else if (op === Bulk.fill) {
      cursor.skipNumber();
      code.put(Op.call).u32(this.#added0 + Added.fill);
    } else if (op === Bulk.copy) {
      cursor.skipNumber();
      cursor.skipNumber();
      code.put(Op.call).u32(this.#added0 + Added.copy);
    } else if (op === Bulk.init) {
      const segment = cursor.u32();
      cursor.skipNumber();
      if (!this.#inits.includes(segment)) this.#inits.push(segment);
      code.put(Op.call).u32(this.#added0 + Added.inits + this.#inits.indexOf(segment));
    } else refuse(`it uses ${REFUSED_BULK[op] ?? `instruction 0xfc ${op}`}`, at);
  }

  /** The functions that are added, in the order of Added. */
  #added(run: number): { type: number; code: Sink }[] {
    const { fill, copy, init } = Bulk;
    const moving = [[fill, 0], [copy, 0, 0], ...this.#inits.map((segment) => [init, segment, 0])];
    const [fillBody, copyBody, ...initBodies] = moving.map(([op, ...operands]) => ({
      type: AddedType.move,
      code: this.#move(op!, operands),
    }));
    return [
      { type: AddedType.markDirty, code: this.#markDirty() },
      fillBody!,
      copyBody!,
      { type: AddedType.begin, code: this.#begin() },
      { type: AddedType.run, code: this.#run(run) },
      ...initBodies,
    ];
  }

  /**
   * (address, length): makes the pages of so many bytes, at least 1, DIRTY, and counts those that were CLEAN.
   * What is not in the heap has no pages: it traps, as what is then done with it would.
   */
  #markDirty(): Sink {
    const { pagesAt, regionsAt, pageShift, regionShift } = this.#map;
    const [page, length, last, region] = [0, 1, 2, 3];
    const code = new Sink().put(1, 2, I32);
    code.put(Op.localGet, page, Op.i32Load8, 0, 0, Op.drop);
    code.put(Op.localGet, page, Op.localGet, length, Op.i32Add, Op.i32Const, 1, Op.i32Sub);
    code.put(Op.localTee, last, Op.i32Load8, 0, 0, Op.drop);
    code.put(Op.localGet, last, Op.i32Const, pageShift, Op.i32ShrU, Op.localSet, last);
    code.put(Op.localGet, page, Op.i32Const, pageShift, Op.i32ShrU, Op.localSet, page);
    code.put(Op.loop, NO_RESULT);
    code.put(Op.localGet, page, Op.i32Load8).put(...ofMap(0)).u32(pagesAt);
    code.put(Op.i32Const, CLEAN, Op.i32Eq, Op.if, NO_RESULT);
    code.put(Op.localGet, page, Op.i32Const, regionShift, Op.i32ShrU);
    code.put(Op.i32Const, 1, Op.i32Shl, Op.localTee, region);
    code.put(Op.localGet, region, Op.i32Load16).put(...ofMap(1)).u32(regionsAt);
    code.put(Op.i32Const, 1, Op.i32Add, Op.i32Store16).put(...ofMap(1)).u32(regionsAt);
    code.put(Op.end);
    code.put(Op.localGet, page, Op.i32Const, DIRTY, Op.i32Store8).put(...ofMap(0)).u32(pagesAt);
    code.put(Op.localGet, page, Op.i32Const, 1, Op.i32Add, Op.localTee, page);
    code.put(Op.localGet, last, Op.i32LeU, Op.brIf, 0, Op.end);
    return code.put(Op.end);
  }

  /** (address, value or source, length): takes off fuel by length, marks, moves. */
  #move(op: number, operands: readonly number[]): Sink {
    const code = new Sink().put(0);
    code.put(Op.globalGet).u32(this.#fuel);
    code.put(Op.localGet, 2, Op.i32Const, 4, Op.i32ShrU, Op.i32Sub, Op.globalSet).u32(this.#fuel);
    code.put(Op.globalGet).u32(this.#fuel).put(...TRAP_BELOW_ZERO);
    code.put(Op.localGet, 2, Op.if, NO_RESULT, Op.localGet, 0, Op.localGet, 2);
    code.put(Op.call).u32(this.#added0 + Added.markDirty).put(Op.end);
    code.put(Op.localGet, 0, Op.localGet, 1, Op.localGet, 2, Op.prefix).u32(op);
    for (const operand of operands) code.u32(operand);
    return code.put(Op.end);
  }

  /** (fuel): what the module does once. */
  #begin(): Sink {
    const code = this.#entry();
    const beginners = new Set(this.#start === -1 ? [] : [this.#start]);
    for (const name of BEGINNERS) {
      const found = this.#exports.get(name);
      if (found === undefined) continue;
      const { text } = this.#types[this.#functions[found.index]!]!;
      if (text !== "->") refuse(`its ${name} is ${text}, not ->`, found.at);
      beginners.add(found.index);
    }
    for (const index of beginners) code.put(Op.call).u32(index);
    code.put(Op.globalGet).u32(this.#fuel).put(...TRAP_BELOW_ZERO);
    return code.put(Op.end);
  }

  /** (fuel, arguments, length): the module's run. */
  #run(run: number): Sink {
    const code = this.#entry();
    code.put(Op.localGet, 1, Op.localGet, 2, Op.call).u32(run);
    code.put(Op.globalGet).u32(this.#fuel).put(...TRAP_BELOW_ZERO);
    return code.put(Op.end);
  }

  #entry(): Sink {
    const code = new Sink().put(0).put(Op.localGet, 0, Op.globalSet).u32(this.#fuel);
    if (this.#stackPointer === -1) return code;
    return code.put(Op.i32Const).s32(this.#stackTop).put(Op.globalSet).u32(this.#stackPointer);
  }
}

/** Where fuel is taken off, and how much. */
interface Gauge {
  readonly hole: number;
  cost: number;
}

function close(code: Sink, { hole, cost }: Gauge): void {
  code.fill(hole, cost);
}

const RUN_TYPE = "i32 i32 -> i32";

/** The functions that are added, by their place after the module's own; of each init there is one more. */
const Added = { markDirty: 0, fill: 1, copy: 2, begin: 3, run: 4, inits: 5 } as const;

/** Their types, by their place after the module's own. */
const AddedType = { markDirty: 0, move: 1, begin: 2, run: 3 } as const;
const ADDED_TYPES: readonly (readonly [parameters: number[], results: number[]])[] = [
  [[I32, I32], []],
  [[I32, I32, I32], []],
  [[I32], []],
  [[I32, I32, I32], [I32]],
];

const TRAP_BELOW_ZERO = [
  ...[Op.i32Const, 0, Op.i32LtS],
  ...[Op.if, NO_RESULT, Op.unreachable, Op.end],
];

/** Of an access to the second memory: its alignment, as a logarithm, and its number. */
function ofMap(alignment: number): number[] {
  return [alignment | 0x40, 1];
}

/** A section begins at `at`; its content is from `start` to before `end`. */
interface Extent {
  id: number;
  at: number;
  start: number;
  end: number;
}

/** The sections of what may be any bytes. Throws ModuleRefused if they are no module, cut short, or without code. */
function* sectionsOf(module: Uint8Array): Generator<Extent> {
  if (module.length === 0) refuse("it is empty", 0);
  const wrong = module.subarray(0, HEAD.length).findIndex((byte, i) => byte !== HEAD[i]);
  if (wrong >= 0 && wrong < VERSION_AT) refuse("it is no WebAssembly module", 0);
  if (wrong >= 0) refuse("it is of another version of WebAssembly", VERSION_AT);
  const cursor = new Cursor(module);
  cursor.skip(HEAD.length);
  let hasCode = false;
  while (!cursor.isAtEnd) {
    const at = cursor.at;
    const id = cursor.byte();
    const length = cursor.u32();
    if (length > cursor.end - cursor.at) refuse("it is cut short", at);
    const start = cursor.at;
    cursor.skip(length);
    hasCode ||= id === Section.code;
    yield { id, at, start, end: cursor.at };
  }
  if (!hasCode) refuse("it has no code", cursor.at);
}

/** Throws ModuleRefused if the bytes are no module of whole sections with code, for which V8 has words of its own. */
export function checkSections(module: Uint8Array): void {
  for (const _ of sectionsOf(module));
}

function refuse(reason: string, at: number): never {
  throw new ModuleRefused(reason, at);
}

/** Calls `use` for each element of a vector, with where that begins. */
function each(cursor: Cursor, use: (at: number) => void): void {
  for (let count = cursor.u32(); count > 0; count--) use(cursor.at);
}

/** The least that a table or a memory must have. */
function limits(cursor: Cursor): number {
  const at = cursor.at;
  const flags = cursor.byte();
  if (flags > 1) refuse("its memory or table is shared, or of 64 bits", at);
  const least = cursor.u32();
  if (flags === 1) cursor.u32();
  return least;
}

/** A constant expression: the global that it begins from, -1 if none, and what is added to it. */
function constant(cursor: Cursor): { base: number; number: number } {
  const value = { base: -1, number: 0 };
  while (true) {
    const at = cursor.at;
    const op = cursor.byte();
    if (op === Op.end) return value;
    if (op === Op.i32Const) value.number += cursor.s32() >>> 0;
    else if (op === Op.globalGet && value.base === -1) value.base = cursor.u32();
    else if (op === Op.i64Const) cursor.skipNumber();
    else if (op === Op.f32Const) cursor.skip(4);
    else if (op === Op.f64Const) cursor.skip(8);
    else if (op !== Op.i32Add) refuse("it has an expression that is more than a sum", at);
  }
}

/**
 * Passes over what follows an instruction, and returns where it may branch to, in how many ways, or what it
 * opens. Throws ModuleRefused if it is none that may be used.
 */
function immediates(cursor: Cursor, op: number, at: number): number {
  switch (op) {
    case Op.unreachable:
    case Op.nop:
    case Op.else:
    case Op.end:
    case Op.return:
    case Op.drop:
    case Op.select:
      return 0;
    case Op.block:
    case Op.loop:
    case Op.if: {
      const type = cursor.byte();
      if (type === NO_RESULT || TYPE_NAMES[type] !== undefined) return 1;
      return refuse("it has a block with parameters, or with a result that is no number", at);
    }
    case Op.br:
    case Op.brIf:
      cursor.skipNumber();
      return 1;
    case Op.call:
    case Op.localGet:
    case Op.localSet:
    case Op.localTee:
    case Op.globalGet:
    case Op.globalSet:
    case Op.memorySize:
    case Op.i32Const:
    case Op.i64Const:
      cursor.skipNumber();
      return 0;
    case Op.callIndirect:
      cursor.skipNumber();
      cursor.skipNumber();
      return 0;
    case Op.brTable: {
      const targets = cursor.u32() + 1;
      for (let i = 0; i < targets; i++) cursor.skipNumber();
      return targets;
    }
    case Op.f32Const:
      cursor.skip(4);
      return 0;
    case Op.f64Const:
      cursor.skip(8);
      return 0;
  }
  if (op >= Op.i32Load && op < Op.i32Store) {
    if (cursor.u32() >= 0x40) refuse("it has more than one memory", at);
    cursor.skipNumber();
    return 0;
  }
  if (op >= Op.i32Eqz && op <= Op.last) return 0;
  return refuse(`it uses ${REFUSED[op] ?? `instruction 0x${op.toString(16)}`}`, at);
}
