/**
 * The meter against what nobody has thought of: mutated modules, which must be refused or run without
 * harm, and random programs, which must do the same metered as plain.
 */

import { assert, assertEquals } from "@std/assert";
import { CLEAN, DIRTY } from "../../lib/heap/reclaim.ts";
import { MAP_IMPORT, meter } from "../../lib/daemon/procedures/meter.ts";
import { ModuleRefused } from "../../lib/daemon/procedures/bytes.ts";
import { Random } from "../testing.ts";
import {
  add,
  body,
  call,
  copy,
  F32,
  F64,
  fill,
  FREE,
  get,
  I32,
  i32,
  I64,
  iff,
  leb,
  load,
  loop,
  MALLOC,
  MEMORY,
  moduleOf,
  name,
  procedure,
  REALLOC,
  set,
  store,
  vector,
} from "../wasm.ts";

const MAP = { pagesAt: 1024, regionsAt: 4096, pageShift: 12, regionShift: 10 };
const PAGES = 2;
const PAGE = 4096;
const CANARY = 0xa5;

/** A memory and a map of its pages, amidst bytes that nobody may touch. */
class World {
  readonly memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
  readonly bytes = new Uint8Array(this.memory.buffer);
  readonly map = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  readonly #map = new Uint8Array(this.map.buffer);
  readonly #pages = new Uint8Array(this.map.buffer, MAP.pagesAt, PAGES * 16);
  readonly #region = new Uint16Array(this.map.buffer, MAP.regionsAt, 1);

  constructor() {
    this.reset();
  }

  reset(): void {
    this.bytes.fill(0);
    this.#map.fill(CANARY);
    this.#pages.fill(CLEAN);
    this.#region[0] = 0;
  }

  /** Pages that are not zero are dirty, as many as are counted, and nothing else has been touched. */
  check(what: string): void {
    let dirty = 0;
    for (let page = 0; page < this.#pages.length; page++) {
      const state = this.#pages[page]!;
      assert(state === CLEAN || state === DIRTY, `${what}: page ${page} is ${state}`);
      dirty += state;
      if (state === DIRTY) continue;
      const bytes = this.bytes.subarray(page * PAGE, (page + 1) * PAGE);
      assert(bytes.every((byte) => byte === 0), `${what}: page ${page} is written and not marked`);
    }
    assertEquals(this.#region[0], dirty, `${what}: the count of dirty pages`);
    const around = [
      this.#map.subarray(0, MAP.pagesAt),
      this.#map.subarray(MAP.pagesAt + this.#pages.length, MAP.regionsAt),
      this.#map.subarray(MAP.regionsAt + 2),
    ];
    for (const bytes of around) assert(bytes.every((byte) => byte === CANARY), `${what}: escaped`);
  }

  /** A metered module's run; undefined if it cannot be instantiated, because of its data for instance. */
  start(code: Uint8Array<ArrayBuffer>, tableLength: number): Entries | undefined {
    const env = {
      memory: this.memory,
      malloc: (length: number) => (length & 0xff) + 256,
      free: () => {},
      realloc: (offset: number) => offset,
      __memory_base: 4096,
      __table_base: 1,
      __stack_pointer: new WebAssembly.Global({ value: "i32", mutable: true }, 0),
      __indirect_function_table: new WebAssembly.Table({
        element: "anyfunc",
        initial: tableLength + 1,
      }),
    };
    const imports = { env, [MAP_IMPORT.module]: { [MAP_IMPORT.name]: this.map } };
    try {
      const instance = new WebAssembly.Instance(new WebAssembly.Module(code), imports);
      return instance.exports as unknown as Entries;
    } catch (error) {
      assert(!(error instanceof WebAssembly.CompileError), `${error}`);
      return undefined;
    }
  }
}

interface Entries {
  run(fuel: number, args: number, length: number): number;
  begin(fuel: number): void;
  fuel: WebAssembly.Global;
}

const BASE = [...name("env"), ...name("__memory_base"), 3, I32, 0];

/** Valid modules to begin from, which have some of everything. */
const SEEDS: readonly Uint8Array[] = [
  procedure([...get(0), ...load(), ...get(1), ...add]),
  procedure([
    ...loop(
      ...get(0),
      ...get(1),
      ...store(8),
      ...get(0),
      ...i32(1),
      ...add,
      0x22,
      0,
      ...i32(100),
      0x49,
      0x0d,
      0,
    ),
    ...get(0),
  ]),
  procedure([
    ...i32(8),
    ...i32(1),
    ...i32(5000),
    ...fill,
    ...i32(9),
    ...i32(7),
    ...i32(300),
    ...copy,
    ...i32(3),
  ]),
  procedure([...i32(40), ...call(0), 0x22, 2, ...call(1), ...get(2), ...i32(80), ...call(2)], {
    imports: [MALLOC, FREE, REALLOC, MEMORY],
    locals: [[1, I32], [2, I64], [1, F64]],
  }),
  moduleOf([
    body([...get(0), ...get(1), ...add]),
    body([
      ...get(0),
      ...get(1),
      ...i32(0),
      0x11,
      0,
      0,
      ...get(0),
      ...iff(...i32(0), ...i32(9), ...store(100)),
    ]),
  ], {
    imports: [MEMORY, BASE],
    sections: {
      4: vector([[0x70, 0, 2]]),
      6: vector([[I32, 1, ...i32(3), 0x0b], [I64, 0, 0x42, 7, 0x0b]]),
      9: vector([[0, ...i32(0), 0x0b, 2, 0, 1]]),
      12: [2],
      11: vector([[0, 0x23, 0, 0x0b, 3, 1, 2, 3], [1, 4, 5, 6, 7, 8]]),
    },
  }),
  procedure([
    ...[0x02, I32],
    ...get(0),
    0x0e,
    2,
    0,
    0,
    0,
    0x0b,
    ...[0xb7, 0x44, 0, 0, 0, 0, 0, 0, 0, 0x40, 0xa2, 0xaa],
    ...[0x42, 0xff, 1, 0xa7],
    ...add,
    ...[0x43, 0, 0, 0x80, 0x3f, 0xfc, 0],
    ...add,
  ]),
];

Deno.test("meter() refuses a mutated module or makes one that is valid, ends, and does no harm", () => {
  const seed = 20261126;
  const random = new Random(seed);
  const world = new World();
  const counts = { invalid: 0, refused: 0, ran: 0, trapped: 0 };
  for (let round = 0; round < 20_000; round++) {
    const what = `seed ${seed}, round ${round}`;
    const module = mutate(random.pick(SEEDS), random);
    if (!WebAssembly.validate(module)) {
      counts.invalid++;
      continue;
    }
    const metered = ignoreRefusal(() => meter(module, MAP, 2048));
    if (metered === undefined) {
      counts.refused++;
      continue;
    }
    assert(WebAssembly.validate(metered.code), `${what}: not valid: ${module.toHex()}`);
    assert(metered.dataLength >= 0 && metered.tableLength >= 0, what);
    if (metered.dataLength > PAGE) continue;
    world.reset();
    const entries = world.start(metered.code, metered.tableLength);
    if (entries === undefined) continue;
    world.bytes.fill(0, PAGE, PAGE + metered.dataLength); // which the daemon marks itself
    try {
      entries.begin(3000);
      entries.run(3000, 64, 16);
      counts.ran++;
    } catch (error) {
      const isTrap = error instanceof WebAssembly.RuntimeError || error instanceof RangeError;
      assert(isTrap, `${what}: ${error}`);
      counts.trapped++;
    }
    world.check(what);
  }
  // Otherwise it has tried nothing.
  assert(counts.refused > 100 && counts.ran > 300 && counts.trapped > 30, JSON.stringify(counts));
});

function ignoreRefusal<T>(use: () => T): T | undefined {
  try {
    return use();
  } catch (error) {
    if (error instanceof ModuleRefused) return undefined;
    throw error;
  }
}

/** One or a few bytes changed, put in, left out, or taken from elsewhere. */
function mutate(module: Uint8Array, random: Random): Uint8Array<ArrayBuffer> {
  let bytes = [...module];
  for (let times = 1 + random.below(2); times > 0; times--) {
    const at = 8 + random.below(bytes.length - 8);
    switch (random.below(6)) {
      case 0:
        bytes.splice(at, 1, random.below(256));
        break;
      case 1:
        bytes[at]! ^= 1 << random.below(8);
        break;
      case 2: {
        // An instruction for another, which keeps lengths as they are.
        bytes[at] = random.pick([
          0,
          1,
          0x0f,
          0x1a,
          0x1b,
          0x40,
          0x45,
          0x6a,
          0x6d,
          0x3f,
          0x36,
          0x3a,
          0xa7,
        ]);
        break;
      }
      case 3:
        bytes.splice(at, random.below(4));
        break;
      case 4:
        bytes.splice(at, 0, ...random.bytes(random.below(4)));
        break;
      default:
        bytes = [...bytes.slice(0, at), ...bytes.slice(8 + random.below(bytes.length - 8))];
    }
  }
  return new Uint8Array(bytes);
}

/** Programs of some functions that end, whatever they are called with. */
class Author {
  readonly #random: Random;
  /** Of the function that is being written: locals by type. Numbers 0 and 1 are its parameters. */
  static readonly LOCALS = { [I32]: [0, 1, 2, 3], [I64]: [4, 5], [F32]: [6], [F64]: [7] } as const;
  static readonly COUNTERS = 8;
  #loops = 0;
  #callable = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  module(): Uint8Array<ArrayBuffer> {
    const bodies = [];
    for (this.#callable = 0; this.#callable < 3; this.#callable++) {
      this.#loops = 0;
      const code = [...this.#statements(4), ...this.#value(I32, 4)];
      bodies.push(body(code, [[2, I32], [2, I64], [1, F32], [1, F64], [8, I32]]));
    }
    return moduleOf(bodies, {
      sections: {
        6: vector([[I32, 1, ...i32(5), 0x0b]]),
        12: [1],
        11: vector([[1, 4, 1, 2, 3, 4]]),
      },
    });
  }

  #statements(depth: number): number[] {
    const code: number[] = [];
    for (let count = this.#random.below(depth + 2); count > 0; count--) {
      code.push(...this.#statement(depth));
    }
    return code;
  }

  #statement(depth: number): number[] {
    const random = this.#random;
    const type = random.pick([I32, I32, I64, F32, F64] as const);
    switch (random.below(depth <= 0 ? 3 : 10)) {
      case 0:
        return [...this.#value(type, depth), ...set(random.pick(Author.LOCALS[type]))];
      case 1:
      case 2:
        return this.#store(type, depth);
      case 3:
        return [...this.#value(I32, depth - 1), ...iff(...this.#statements(depth - 1))];
      case 4:
        return [
          ...this.#value(I32, depth - 1),
          ...[
            0x04,
            0x40,
            ...this.#statements(depth - 1),
            0x05,
            ...this.#statements(depth - 1),
            0x0b,
          ],
        ];
      case 5:
      case 6:
        return this.#loop(depth);
      case 7: // a block that may be left early
        return [
          ...[0x02, 0x40, ...this.#statements(depth - 2), ...this.#value(I32, depth - 1), 0x0d, 0],
          ...[...this.#statements(depth - 1), 0x0b],
        ];
      case 8: {
        const address = () => [...this.#value(I32, depth - 2), ...i32(0xffff), 0x71];
        const length = [...this.#value(I32, depth - 2), ...i32(0x3fff), 0x71];
        const move = random.pick([fill, copy]);
        return [...address(), ...address(), ...length, ...move];
      }
      default:
        return [...this.#value(I32, depth - 1), 0x24, 0];
    }
  }

  /** At most 8 in a function, each of a few turns. */
  #loop(depth: number): number[] {
    if (this.#loops === 8) return [];
    const counter = Author.COUNTERS + this.#loops++;
    const turns = 1 + this.#random.below(4);
    return [
      ...i32(turns),
      ...set(counter),
      ...loop(
        ...this.#statements(depth - 2),
        ...get(counter),
        ...i32(1),
        0x6b,
        0x22,
        ...leb(counter),
        0x0d,
        0,
      ),
    ];
  }

  #store(type: number, depth: number): number[] {
    const random = this.#random;
    const op = random.pick(
      {
        [I32]: [0x36, 0x3a, 0x3b],
        [I64]: [0x37, 0x3c, 0x3d, 0x3e],
        [F32]: [0x38],
        [F64]: [0x39],
      }[type]!,
    );
    // Now and then outside, which traps.
    const mask = random.chance(0.02) ? -1 : 0x1ffff;
    const offset = random.pick([0, 1, 4093, 4096]);
    const at = [...this.#value(I32, depth - 1), ...i32(mask >>> 1), 0x71];
    return [...at, ...this.#value(type, depth - 1), op, 0, ...leb(offset)];
  }

  #value(type: number, depth: number): number[] {
    const random = this.#random;
    const leaf = random.below(3);
    if (depth <= 0 || leaf === 0) {
      if (random.chance(0.5)) return get(random.pick(Author.LOCALS[type as typeof I32]));
      switch (type) {
        case I32:
          return random.chance(0.2) ? [0x23, 0] : i32(random.word() >> random.below(32));
        case I64:
          return [0x42, random.below(64)];
        case F32:
          return [0x43, ...random.bytes(2), random.below(256), 0x3f];
        default:
          return [0x44, ...random.bytes(6), 0xe0 + random.below(16), 0x3f];
      }
    }
    const inner = (of: number) => this.#value(of, depth - 1);
    switch (type) {
      case I32:
        switch (random.below(6)) {
          case 0: // division, which may trap
            return [...inner(I32), ...inner(I32), random.pick([0x6e, 0x70])];
          case 1:
            return [...inner(I64), 0xa7];
          case 2:
            return [
              ...inner(I32),
              ...i32(0xffff),
              0x71,
              random.pick([0x28, 0x2c, 0x2d, 0x2e, 0x2f]),
              0,
              ...leb(3),
            ];
          case 3:
            if (this.#callable === 0) return inner(I32);
            return [...inner(I32), ...inner(I32), ...call(random.below(this.#callable))];
          case 4:
            return [...inner(F64), 0xfc, 2];
          default:
            return [
              ...inner(I32),
              ...inner(I32),
              random.pick([0x6a, 0x6b, 0x6c, 0x71, 0x73, 0x74, 0x76, 0x48, 0x4f]),
            ];
        }
      case I64:
        return random.chance(0.5)
          ? [...inner(I32), random.pick([0xac, 0xad])]
          : [...inner(I64), ...inner(I64), random.pick([0x7c, 0x7d, 0x7e, 0x85])];
      case F32:
        return random.chance(0.5) ? [...inner(I32), 0xb2] : [...inner(F32), ...inner(F32), 0x92];
      default:
        return random.chance(0.5) ? [...inner(I32), 0xb7] : [...inner(F64), ...inner(F64), 0xa0];
    }
  }
}

Deno.test("a random program does the same metered as plain: result, trap and every byte", () => {
  const seed = 14;
  const random = new Random(seed);
  const world = new World();
  const plain = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES });
  let [traps, results] = [0, 0];
  for (let round = 0; round < 600; round++) {
    const what = `seed ${seed}, round ${round}`;
    const module = new Author(random).module();
    assert(WebAssembly.validate(module), what);
    new Uint8Array(plain.buffer).fill(0);
    world.reset();
    const instance = new WebAssembly.Instance(new WebAssembly.Module(module), {
      env: { memory: plain },
    });
    const run = instance.exports["run"] as (args: number, length: number) => number;
    const { code, tableLength } = meter(module, MAP, 2048);
    const metered = world.start(code, tableLength)!;
    metered.begin(0);
    const [a, b] = [random.word() | 0, random.below(100)];
    const expected = outcome(() => run(a, b));
    const found = outcome(() => metered.run(2 ** 30, a, b));
    assertEquals(found, expected, what);
    assert(metered.fuel.value >= 0, what);
    assertEquals(firstDifference(world.bytes, new Uint8Array(plain.buffer)), -1, what);
    world.check(what);
    if (typeof found === "number") results++;
    else traps++;
  }
  assert(traps > 20 && results > 200, `${traps} traps, ${results} results`);
});

/** Where two arrays of one length differ; -1 if they don't. */
function firstDifference(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i;
  return -1;
}

function outcome(use: () => number): number | string {
  try {
    return use();
  } catch (error) {
    return (error as Error).message;
  }
}

Deno.test("the parts of these tests that find faults find one that is planted", () => {
  const world = new World();
  world.bytes[5000] = 1; // written by nobody that marks it
  let found = "";
  try {
    world.check("planted");
  } catch (error) {
    found = (error as Error).message;
  }
  assertEquals(found.split("\n")[0], "planted: page 1 is written and not marked");
});
