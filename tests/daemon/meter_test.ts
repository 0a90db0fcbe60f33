/** What the meter refuses, by name and place, and what it does to what it admits. */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { ModuleRefused } from "../../lib/daemon/procedures/bytes.ts";
import { CLEAN, DIRTY, IDLE } from "../../lib/heap/reclaim.ts";
import { MAP_IMPORT, MAX_LOCALS, MAX_TABLE, meter } from "../../lib/daemon/procedures/meter.ts";
import {
  add,
  body,
  call,
  copy,
  F64,
  fill,
  FREE,
  get,
  I32,
  i32,
  I64,
  iff,
  importFunction,
  leb,
  loop,
  MALLOC,
  MEMORY,
  moduleOf,
  name,
  procedure,
  section,
  TYPES,
  vector,
} from "../wasm.ts";

const MAP = { pagesAt: 128, regionsAt: 4096, pageShift: 12, regionShift: 10 };
const STACK_TOP = 60 * 1024;

const BASE_IMPORT = [...name("env"), ...name("__memory_base"), 3, I32, 0];
const dataAt = (...offset: number[]) => vector([[0, ...offset, 0x0b, ...leb(3), 1, 2, 3]]);
const dylink = (...subsections: number[]) => section(0, [...name("dylink.0"), ...subsections]);

/** A module that is refused: what is in it, the reason, and with which bytes, in hex, what is meant begins. */
const REFUSED: Record<string, [module: Uint8Array<ArrayBuffer>, reason: string, there: string]> = {
  "a function of an unknown name": [
    procedure(i32(0), { imports: [MEMORY, importFunction("abort", 3)] }),
    "it imports env.abort, which procedures do not have",
    "03656e760561",
  ],
  "a function of another module": [
    procedure(i32(0), { imports: [[...name("wasi_snapshot_preview1"), ...name("malloc"), 0, 1]] }),
    "it imports wasi_snapshot_preview1.malloc, which procedures do not have",
    "1677617369",
  ],
  "a function that all objects have": [
    procedure(i32(0), { imports: [importFunction("toString", 1)] }),
    "it imports env.toString, which procedures do not have",
    "03656e760874",
  ],
  "malloc with another type": [
    procedure(i32(0), { imports: [importFunction("malloc", 0)] }),
    "it imports env.malloc as i32 i32 -> i32, not as i32 -> i32",
    "03656e76066d",
  ],
  "a global of an unknown name": [
    procedure(i32(0), { imports: [[...name("env"), ...name("GOT"), 3, I32, 1]] }),
    "it imports env.GOT, which procedures do not have",
    "03656e760347",
  ],
  "a base that may change": [
    procedure(i32(0), { imports: [[...name("env"), ...name("__memory_base"), 3, I32, 1]] }),
    "it imports env.__memory_base as another kind of global",
    "03656e760d5f",
  ],
  "a memory of another name": [
    procedure(i32(0), { imports: [[...name("env"), ...name("heap"), 2, 0, 0]] }),
    "it imports env.heap, which procedures do not have",
    "03656e760468",
  ],
  "a shared memory": [
    procedure(i32(0), { imports: [[...name("env"), ...name("memory"), 2, 3, 0, 1]] }),
    "its memory or table is shared, or of 64 bits",
    "030001",
  ],
  "two memories": [
    procedure(i32(0), { imports: [MEMORY, MEMORY] }),
    "it has more than one memory",
    "03656e76066d",
  ],
  "its own memory": [
    procedure(i32(0), { imports: [], sections: { 5: vector([[0, 1]]) } }),
    "it has a memory of its own",
    "0001",
  ],
  "memory.grow": [
    procedure([...i32(0), 0x40, 0]),
    "it uses memory.grow",
    "4000",
  ],
  "an atomic instruction": [
    procedure([...get(0), 0xfe, 0x10, 2, 0]),
    "it uses an atomic instruction",
    "fe10",
  ],
  "a vector instruction": [
    procedure([...get(0), ...get(0), 0xfd, 15, 0xfd, 11, 0, 0, ...i32(0)]),
    "it uses a vector instruction",
    "fd0f",
  ],
  "a tail call": [
    procedure([...get(0), ...get(1), 0x12, 0]),
    "it uses return_call",
    "1200",
  ],
  "growing a table": [
    procedure([0xd0, 0x70, ...i32(1), 0xfc, 15, 0], { sections: { 4: vector([[0x70, 0, 1]]) } }),
    "it uses ref.null",
    "d070",
  ],
  "filling a table": [
    procedure([...i32(0), ...i32(0), ...i32(0), 0xfc, 14, 0, 0, ...i32(0)], {
      sections: { 4: vector([[0x70, 0, 1]]) },
    }),
    "it uses table.copy",
    "fc0e",
  ],
  "a large table": [
    procedure(i32(0), { sections: { 4: vector([[0x70, 0, ...leb(MAX_TABLE + 1)]]) } }),
    `its tables have ${MAX_TABLE + 1} elements, over ${MAX_TABLE}`,
    "700081",
  ],
  "a table of anything": [
    procedure(i32(0), { sections: { 4: vector([[0x6f, 0, 1]]) } }),
    "it has a table that is not of functions",
    "6f0001",
  ],
  "many locals": [
    procedure(i32(0), { locals: [[...leb(MAX_LOCALS), I64]] }),
    `it has a function with over ${MAX_LOCALS} locals`,
    "01e807",
  ],
  "more branches than its locals allow": [
    procedure([...Array(600).fill([0x03, 0x40, 0x0b]).flat(), ...i32(0)], {
      locals: [[...leb(MAX_LOCALS - 2), I64]],
    }),
    "it has too many branches for so many locals",
    "0340",
  ],
  "a type of structs": [
    procedure(i32(0), { types: [...TYPES, [0x5f, 0]] }),
    "it has a type that is no function's",
    "5f00",
  ],
  "a type of vectors": [
    procedure(i32(0), { types: [...TYPES, [0x60, 1, 0x7b, 0]] }),
    "it has a type that is not i32, i64, f32 or f64",
    "7b00",
  ],
  "exceptions": [
    procedure(i32(0), { sections: { 13: vector([[0, 3]]) } }),
    "it has exceptions",
    "0d03",
  ],
  "two results": [
    procedure(i32(0), { types: [...TYPES, [0x60, 0, 2, I32, I32]] }),
    "it has a function with more than one result",
    "600002",
  ],
  "a block with parameters": [
    procedure([...get(0), 0x02, 1, 0x0b]),
    "it has a block with parameters, or with a result that is no number",
    "0201",
  ],
  "data at an address of its own": [
    procedure(i32(0), { sections: { 11: dataAt(...i32(1024)) } }),
    "it has data at an address of its own, not from env.__memory_base on: " +
    "link it as position-independent code",
    "0041",
  ],
  "data at another base": [
    procedure(i32(0), {
      imports: [MEMORY, [...name("env"), ...name("__table_base"), 3, I32, 0]],
      sections: { 11: dataAt(0x23, 0) },
    }),
    "it has data at an address of its own, not from env.__memory_base on: " +
    "link it as position-independent code",
    "0023",
  ],
  "data at a product": [
    procedure(i32(0), {
      imports: [MEMORY, BASE_IMPORT],
      sections: { 11: dataAt(0x23, 0, ...i32(2), 0x6c) },
    }),
    "it has an expression that is more than a sum",
    "6c0b",
  ],
  "a stack of its own": [
    procedure([0x23, 0, ...i32(16), 0x6b], {
      sections: { 6: vector([[I32, 1, ...i32(66560), 0x0b]]) },
    }),
    "it has a stack of its own, from 66560 down: link it as position-independent code",
    "2300",
  ],
  "data that is aligned too much": [
    procedure(i32(0), { head: dylink(1, 4, 16, 5, 0, 0) }),
    "its data is aligned to 32 bytes, more than 16",
    "0104",
  ],
  "a number without an end, where V8 does not look": [
    procedure(i32(0), { head: dylink(1, ...Array(200).fill(0x80), 0) }),
    "it has a number of more than 32 bits",
    "8080",
  ],
  "a number of 33 bits": [
    procedure(i32(0), { head: dylink(1, 7, 0x80, 0x80, 0x80, 0x80, 0x10, 0, 0, 0) }),
    "it has a number of more than 32 bits",
    "8080",
  ],
  "another module that it needs": [
    procedure(i32(0), { head: dylink(2, 6, 1, ...name("libc")) }),
    "it needs another module, libc",
    "0206",
  ],
  "no run": [
    procedure(i32(0), { exports: [] }),
    "it exports no function run",
    "0a06",
  ],
  "a run of another type": [
    moduleOf([body(get(0))], { functions: [1] }),
    "its run is i32 -> i32, not i32 i32 -> i32",
    "0372756e",
  ],
  "no code": [
    new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]),
    "it has no code",
    "",
  ],
  "a tag": [
    procedure(i32(0), {
      sections: {},
      head: [],
      imports: [[...name("env"), ...name("tag"), 4, 0, 3]],
    }),
    "it imports env.tag, which procedures do not have",
    "03656e760374",
  ],
  "relocations of another type": [
    moduleOf([body(get(0)), body(get(0))], {
      functions: [1, 0],
      exports: [[...name("run"), 0, 1], [...name("__wasm_apply_data_relocs"), 0, 0]],
    }),
    "its __wasm_apply_data_relocs is i32 -> i32, not ->",
    "185f5f7761736d",
  ],
};

for (const [what, [module, reason, there]] of Object.entries(REFUSED)) {
  Deno.test(`meter() refuses ${what}, and says where it is`, () => {
    assert(WebAssembly.validate(module), "the test's own module is not valid");
    const error = assertThrows(() => meter(module, MAP, STACK_TOP), ModuleRefused);
    assertEquals(error.message, `${reason}, at byte ${error.offset} of the module`);
    const { offset } = error;
    assertEquals(module.subarray(offset, offset + there.length / 2).toHex(), there);
    assert(offset >= 8 && offset <= module.length, `${offset}`);
  });
}

/** Instructions that are refused, behind one after which any are valid. */
const INSTRUCTIONS: Record<string, number[]> = {
  "return_call_indirect": [0x13, 0, 0],
  "call_ref": [0x14, 0],
  "select with a type": [0x1c, 1, I32],
  "try": [0x06, 0x40, 0x0b],
  "throw_ref": [0x0a],
  "try_table": [0x1f, 0x40, 0, 0x0b],
  "table.get": [0x25, 0],
  "table.set": [0x26, 0],
  "memory.grow": [0x40, 0],
  "ref.null": [0xd0, 0x70],
  "ref.is_null": [0xd1],
  "ref.func": [0xd2, 0],
  "an instruction of garbage collection": [0xfb, 0x1c],
  "table.init": [0xfc, 12, 0, 0],
  "elem.drop": [0xfc, 13, 0],
  "table.copy": [0xfc, 14, 0, 0],
  "table.grow": [0xfc, 15, 0],
  "table.size": [0xfc, 16, 0],
  "table.fill": [0xfc, 17, 0],
};

for (const [what, bytes] of Object.entries(INSTRUCTIONS)) {
  Deno.test(`meter() refuses ${what} by its name, at the byte where it stands`, () => {
    const [unreachable, drop] = [0x00, 0x1a];
    const module = procedure([unreachable, ...bytes, drop, ...i32(0)], {
      sections: { 4: vector([[0x70, 0, 1]]), 9: vector([[1, 0, 1, 0]]) },
    });
    assert(WebAssembly.validate(module), "the test's own module is not valid");
    const error = assertThrows(() => meter(module, MAP, STACK_TOP), ModuleRefused);
    assertEquals(error.message, `it uses ${what}, at byte ${error.offset} of the module`);
    assertEquals([...module.subarray(error.offset, error.offset + bytes.length)], bytes);
  });
}

/** Modules that are admitted, and the static data and the table that they need. */
const ADMITTED: Record<string, [module: Uint8Array<ArrayBuffer>, data: number, table: number]> = {
  "no imports at all": [procedure(i32(7), { imports: [] }), 0, 0],
  "every import": [
    procedure([...i32(8), ...call(0)], {
      imports: [
        MALLOC,
        FREE,
        importFunction("realloc", 0),
        [...name("env"), ...name("memory"), 2, 1, 1, ...leb(65536)],
        [...name("env"), ...name("__indirect_function_table"), 1, 0x70, 0, 5],
        BASE_IMPORT,
        [...name("env"), ...name("__table_base"), 3, I32, 0],
        [...name("env"), ...name("__stack_pointer"), 3, I32, 1],
      ],
    }),
    0,
    5,
  ],
  "data at its base": [
    procedure(i32(0), {
      imports: [MEMORY, BASE_IMPORT],
      sections: { 11: dataAt(0x23, 0) },
    }),
    3,
    0,
  ],
  "data beyond its base": [
    procedure(i32(0), {
      imports: [MEMORY, BASE_IMPORT],
      sections: { 11: dataAt(0x23, 0, ...i32(100), 0x6a) },
    }),
    103,
    0,
  ],
  "what the linker says of data and table": [
    procedure(i32(0), { head: dylink(1, 5, ...leb(1000), 4, 2, 0) }),
    1000,
    2,
  ],
  "passive data": [
    procedure([...i32(0), ...i32(0), ...i32(1), 0xfc, 8, 0, 0, 0xfc, 9, 0, ...i32(0)], {
      sections: { 12: [1], 11: vector([[1, 1, 42]]) },
    }),
    0,
    0,
  ],
  "counters of its own": [
    procedure([0x23, 0, ...i32(1), ...add, 0x24, 0, 0x23, 0], {
      sections: {
        6: vector([[I32, 1, ...i32(1), 0x0b], [F64, 0, 0x44, ...Array(8).fill(0), 0x0b]]),
      },
    }),
    0,
    0,
  ],
};

for (const [what, [module, data, table]] of Object.entries(ADMITTED)) {
  Deno.test(`meter() admits a module with ${what}`, () => {
    assert(WebAssembly.validate(module), "the test's own module is not valid");
    const { code, dataLength, tableLength } = meter(module, MAP, STACK_TOP);
    assertEquals([dataLength, tableLength], [data, table]);
    const compiled = new WebAssembly.Module(code);
    assertEquals(WebAssembly.Module.exports(compiled).map(({ name }) => name), [
      "run",
      "begin",
      "fuel",
    ]);
    const memories = WebAssembly.Module.imports(compiled).filter(({ kind }) => kind === "memory");
    assertEquals(memories.map(({ name }) => name), ["memory", MAP_IMPORT.name]);
  });
}

/** A metered module at work on a small memory, with a map of its own. */
function start(module: Uint8Array, options: { pages?: number } = {}) {
  const { pages: initial = 3 } = options;
  const memory = new WebAssembly.Memory({ initial, maximum: initial, shared: true });
  const map = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const { code } = meter(module, MAP, STACK_TOP);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(code), {
    env: { memory, malloc: () => 0, free: () => {}, realloc: () => 0 },
    [MAP_IMPORT.module]: { [MAP_IMPORT.name]: map },
  });
  const { run, fuel } = instance.exports as unknown as {
    run(fuel: number, args: number, length: number): number;
    fuel: WebAssembly.Global;
  };
  const pages = new Uint8Array(map.buffer, MAP.pagesAt, memory.buffer.byteLength >> 12);
  const regions = new Uint16Array(map.buffer, MAP.regionsAt, 1);
  const dirty = () => {
    const marked = [...pages.keys()].filter((page) => pages[page] === DIRTY);
    assertEquals(regions[0], marked.length, "the count of the region");
    return marked;
  };
  return { run, fuel, dirty, map, memory, pages, regions };
}

Deno.test("a metered module pays for each instruction of a straight line, and of each turn of a loop", () => {
  const straight = start(procedure([...get(0), ...get(1), ...add]));
  assertEquals(straight.run(100, 3, 4), 7);
  // Three instructions, the end, and two parameters.
  assertEquals(straight.fuel.value, 100 - 6);
  const turns = start(procedure([
    ...loop(...get(0), ...i32(1), ...sub1, ...tee0, ...[0x0d, 0]),
    ...get(0),
  ]));
  turns.run(1000, 10, 0);
  // Each turn: get, const, sub, tee, br_if, and the end. Around it: loop, get, end, two parameters.
  assertEquals(turns.fuel.value, 1000 - 10 * 6 - 5);
});
const sub1 = [0x6b];
const tee0 = [0x22, 0];

const ENDLESS: Record<string, Uint8Array> = {
  "a loop": procedure([...loop(0x0c, 0), ...i32(0)]),
  "a loop in a loop": procedure([...loop(...loop(0x0c, 1)), ...i32(0)]),
  "a loop left and entered again by br_table": procedure([
    ...loop(...get(0), 0x0e, 1, 0, 0),
    ...i32(0),
  ]),
  "recursion": moduleOf([body([...get(0), ...get(1), ...call(0)])]),
  "recursion through a table": moduleOf(
    [body([...get(0), ...get(1), ...i32(0), 0x11, 0, 0])],
    { sections: { 4: vector([[0x70, 0, 1]]), 9: vector([[0, ...i32(0), 0x0b, 1, 0]]) } },
  ),
  "two functions that call each other twice": moduleOf([
    body([...get(0), ...get(1), ...call(1), ...get(0), ...call(1)]),
    body([...get(0), ...get(1), ...call(0), ...get(0), ...call(0)]),
  ]),
  "filling again and again": procedure([
    ...loop(...i32(0), ...i32(0), ...i32(65536), ...fill, 0x0c, 0),
    ...i32(0),
  ]),
};

for (const [what, module] of Object.entries(ENDLESS)) {
  Deno.test(`a metered module that never ends, ${what}, is trapped`, () => {
    const { run, fuel } = start(module);
    const error = assertThrows(() => run(5000, 0, 0), Error);
    assert(fuel.value < 0, `${error.message}, fuel ${fuel.value}`);
  });
}

Deno.test("a metered module pays a unit for each 16 bytes that it fills, copies or takes from its data", () => {
  const before = start(procedure([...i32(0), ...i32(0), ...i32(0), ...fill, ...i32(0)]));
  before.run(100_000, 0, 0);
  for (
    const [code, length] of [
      [[...i32(0), ...i32(1), ...i32(65536), ...fill], 65536],
      [[...i32(0), ...i32(7), ...i32(32768), ...copy], 32768],
    ] as const
  ) {
    const { run, fuel } = start(procedure([...code, ...i32(0)]));
    run(100_000, 0, 0);
    assertEquals(before.fuel.value - fuel.value, length / 16);
  }
  const much = start(procedure([...i32(0), ...i32(0), ...i32(-1), ...fill, ...i32(0)]));
  assertThrows(() => much.run(100_000, 0, 0), WebAssembly.RuntimeError);
  assert(much.fuel.value < 0);
});

Deno.test("each kind of store marks the page that it begins in and that which it ends in", () => {
  const value = {
    [I32]: i32(-1),
    [I64]: [0x42, 0x7f],
    0x7d: [0x43, 1, 1, 1, 1],
    [F64]: [0x44, 1, 1, 1, 1, 1, 1, 1, 1],
  };
  const stores = [
    [0x36, I32, 4],
    [0x37, I64, 8],
    [0x38, 0x7d, 4],
    [0x39, F64, 8],
    [0x3a, I32, 1],
    [0x3b, I32, 2],
    [0x3c, I64, 1],
    [0x3d, I64, 2],
    [0x3e, I64, 4],
  ] as const;
  for (const [op, type, bytes] of stores) {
    for (
      const [at, offset] of [[8192, 0], [0, 8192], [8192 - 1, 0], [1, 8192 - 2], [
        3 * 65536 - bytes,
        0,
      ]] as const
    ) {
      const what = `store 0x${op.toString(16)} at ${at} + ${offset}`;
      const { run, dirty, memory } = start(procedure([
        ...i32(at),
        ...value[type],
        op,
        0,
        ...leb(offset),
        ...i32(0),
      ]));
      run(1000, 0, 0);
      const first = (at + offset) >> 12;
      const last = (at + offset + bytes - 1) >> 12;
      assertEquals(dirty(), first === last ? [first] : [first, last], what);
      const written = new Uint8Array(memory.buffer, at + offset, bytes);
      assert(written.some((byte) => byte !== 0), what);
    }
  }
});

Deno.test("a page that is idle becomes dirty, and is not counted again", () => {
  for (
    const code of [[...i32(4094), ...i32(1), 0x36, 0, 0], [
      ...i32(0),
      ...i32(1),
      ...i32(8192),
      ...fill,
    ]]
  ) {
    const { run, pages, regions } = start(procedure([...code, ...i32(0)]));
    pages.set([IDLE, IDLE]);
    regions[0] = 2;
    run(1000, 0, 0);
    assertEquals([...pages.subarray(0, 3), regions[0]], [DIRTY, DIRTY, CLEAN, 2]);
  }
});

Deno.test("a store outside the memory is trapped, and marks nothing but a page that there is", () => {
  for (
    const [at, offset] of [[3 * 65536 - 3, 0], [-1, 0], [-1, 1], [0, 2 ** 32 - 1], [
      -4,
      2 ** 32 - 4,
    ]] as const
  ) {
    const { run, dirty, map, memory } = start(procedure([
      ...i32(at),
      ...i32(-1),
      0x36,
      0,
      ...leb(offset),
      ...i32(0),
    ]));
    assertThrows(() => run(1000, 0, 0), WebAssembly.RuntimeError);
    assert(new Uint8Array(memory.buffer).every((byte) => byte === 0));
    const marked = new Uint8Array(map.buffer).reduce((sum, byte) => sum + byte);
    assertEquals(marked, 2 * dirty().length, "each page, and that in its region");
  }
});

Deno.test("filling, copying and initializing mark all that they write, and nothing if that is nothing", () => {
  const passive = { 12: [1], 11: vector([[1, ...leb(5000), ...Array(5000).fill(9)]]) };
  const cases: [code: number[], pages: number[]][] = [
    [[...i32(4000), ...i32(1), ...i32(5000), ...fill], [0, 1, 2]],
    [[...i32(8191), ...i32(0), ...i32(2), ...copy], [1, 2]],
    [[...i32(8192), ...i32(0), ...i32(4096), ...copy], [2]],
    [[...i32(8192), ...i32(0), ...i32(0), ...fill], []],
    [[...i32(65536), ...i32(0), ...i32(5000), 0xfc, 8, 0, 0], [16, 17]],
    [[...i32(65536), ...i32(0), ...i32(0), 0xfc, 8, 0, 0], []],
  ];
  for (const [code, pages] of cases) {
    const { run, dirty } = start(procedure([...code, ...i32(0)], { sections: passive }));
    run(100_000, 0, 0);
    assertEquals(dirty(), pages);
  }
});

Deno.test("the stack pointer starts anew with each call, whatever trapped the one before", () => {
  const pointer = [...name("env"), ...name("__stack_pointer"), 3, I32, 1];
  const module = procedure([
    ...[0x23, 0],
    ...i32(16),
    0x6b,
    0x24,
    0,
    ...get(0),
    ...iff(0x00),
    ...[0x23, 0],
  ], { imports: [MEMORY, pointer] });
  const { code } = meter(module, MAP, STACK_TOP);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(code), {
    env: {
      memory: new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }),
      __stack_pointer: new WebAssembly.Global({ value: "i32", mutable: true }, 0),
    },
    mallocd: { dirty: new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }) },
  });
  const run = instance.exports["run"] as (fuel: number, args: number, length: number) => number;
  assertThrows(() => run(100, 1, 0), WebAssembly.RuntimeError);
  assertThrows(() => run(100, 1, 0), WebAssembly.RuntimeError);
  assertEquals(run(100, 0, 0), STACK_TOP - 16);
});
