import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { Counter } from "../../lib/daemon/counters.ts";
import {
  DEFAULT_FUEL,
  MAX_ARGUMENTS,
  MAX_MODULE,
  MAX_PROCEDURES,
  RESERVED,
} from "../../lib/daemon/procedures/limits.ts";
import { ERRNO } from "../../lib/protocol/errno.ts";
import { HEAP_BASE, newHeapMemory } from "../../lib/heap/heap.ts";
import { newState } from "../../lib/daemon/state.ts";
import { Box, type BoxOptions, fields, head, word } from "../testing.ts";
import {
  add,
  body,
  call,
  drop,
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
  section,
  set,
  store,
  TYPES,
  unreachable,
  vector,
} from "../wasm.ts";

const [FREE_OP, READ, WRITE, REALLOC_OP, INSTALL, CALL, UNINSTALL] = [1, 2, 3, 4, 8, 9, 10];
const SIZE = 1024 * 1024;
const FIRST = HEAP_BASE + RESERVED;
const { ENOENT, ENOEXEC, EPERM, ENOMEM, EFAULT, EINVAL, ENOSYS, ETIME, ECANCELED, EAGAIN } = ERRNO;

/** A box with procedures, and requests that have a tag of their own each time. */
class Shop extends Box {
  #tag = 0;

  constructor(options: BoxOptions = {}) {
    super({ size: SIZE, fuel: DEFAULT_FUEL, replayCache: 1024, ...options });
  }

  /** Status, and the body in hex. */
  request(opcode: number, rest: string): { status: number; body: string } {
    this.#tag++;
    const reply = this.ask(word(this.#tag, opcode) + rest)!;
    return { status: parseInt(reply.slice(8, 12), 16), body: reply.slice(32) };
  }

  malloc(length: number): number {
    return parseInt(this.ask(fields(0, length))!, 16);
  }

  write(pointer: number, hex: string): void {
    this.ask(fields(WRITE, pointer, hex.length / 2) + hex);
  }

  read(pointer: number, length: number): string {
    return this.ask(fields(READ, pointer, length))!;
  }

  free(pointer: number): void {
    this.ask(fields(FREE_OP, pointer));
  }

  /** Status, and the handle or why there is none. */
  tryInstall(module: Uint8Array): { status: number; handle: number; reason: string } {
    const pointer = this.malloc(module.length);
    for (let at = 0; at < module.length; at += 60_000) {
      this.write(pointer + at, module.subarray(at, at + 60_000).toHex());
    }
    const { status, body } = this.request(INSTALL, fields(pointer, module.length));
    this.free(pointer);
    const reason = new TextDecoder().decode(Uint8Array.fromHex(body));
    return { status, handle: parseInt(body, 16), reason };
  }

  install(module: Uint8Array): number {
    const { status, handle, reason } = this.tryInstall(module);
    assertEquals(status, 0, reason);
    return handle;
  }

  /** Status, and the value; arguments are i32, little-endian, as WebAssembly has them. */
  call(handle: number, ...args: number[]): { status: number; value: number } {
    const bytes = new Uint8Array(new Int32Array(args).buffer).toHex();
    const { status, body } = this.request(CALL, fields(handle, bytes.length / 2) + bytes);
    return { status, value: parseInt(body, 16) };
  }

  uninstall(handle: number): number {
    return this.request(UNINSTALL, fields(handle)).status;
  }

  get blocks(): number {
    return this.heap.buddy.liveBlocks;
  }
}

/** The argument of that number. */
const arg = (index: number) => [...get(0), ...load(4 * index)];
/** Its arguments, added. */
const SUM = procedure([...arg(0), ...arg(1), ...add]);
const ENDLESS = procedure([...loop(0x0c, 0), ...i32(0)]);
/** An address of a client's, as an offset. */
const offset = (pointer: number) => pointer - HEAP_BASE;

Deno.test("a procedure is installed, called and uninstalled, and its handle is good no longer", () => {
  const shop = new Shop();
  const handle = shop.install(SUM);
  assertEquals(shop.call(handle, 3, 4), { status: 0, value: 7 });
  assertEquals(shop.call(handle, -1, 0), { status: 0, value: 2 ** 32 - 1 });
  assertEquals(shop.uninstall(handle), 0);
  assertEquals(shop.call(handle, 3, 4).status, ENOENT);
  assertEquals(shop.uninstall(handle), ENOENT);
  assertEquals(shop.install(SUM), handle);
  assertEquals(shop.call(handle, 3, 4), { status: 0, value: 7 });
});

Deno.test("the same bytes have the same handle, which another incarnation does not know", () => {
  const shop = new Shop();
  const handle = shop.install(SUM);
  assertEquals(shop.install(SUM), handle);
  assertNotEquals(shop.install(ENDLESS), handle);
  const other = new Shop();
  assertEquals(other.call(handle, 3, 4).status, ENOENT);
  assertEquals(other.install(SUM), handle);
});

Deno.test("a handle is 52 bits of the SHA-256 of the module", async () => {
  const digest = new DataView(await crypto.subtle.digest("SHA-256", SUM));
  assertEquals(new Shop().install(SUM), Number(digest.getBigUint64(0) & (2n ** 52n - 1n)));
});

Deno.test("a handle that was never given out is none, whatever number it is", () => {
  const shop = new Shop();
  const handle = shop.install(SUM);
  const odd = [0, 1, handle + 1, handle + 64, handle - 64, 2 ** 53, 2 ** 63, 2n ** 64n - 1n];
  for (const other of odd) {
    const { status } = shop.request(CALL, fields(other, 0));
    assertEquals(status, ENOENT, `${other}`);
    assertEquals(shop.request(UNINSTALL, fields(other)).status, ENOENT);
  }
});

Deno.test("without --procedures each of their requests is ENOSYS, and what follows is answered", () => {
  const box = new Box({ size: SIZE });
  for (
    const request of [
      word(1, INSTALL) + fields(HEAP_BASE, 8),
      word(1, CALL) + fields(1, 3) + "010203",
      word(1, UNINSTALL) + fields(1),
    ]
  ) {
    const reply = box.ask(request + word(2, FREE_OP) + fields(0))!;
    const opcode = parseInt(request.slice(14, 16), 16);
    assertEquals(reply, head(1, opcode, ENOSYS, 0) + head(2, FREE_OP, 0, 0));
  }
});

Deno.test("a module that may not run is ENOEXEC, and the body says why and where", () => {
  const shop = new Shop();
  const grow = procedure([...i32(0), 0x40, 0]);
  const { status, reason } = shop.tryInstall(grow);
  assertEquals(status, ENOEXEC);
  assertEquals(reason, `it uses memory.grow, at byte ${grow.length - 3} of the module`);
  const large = shop.request(INSTALL, fields(FIRST, MAX_MODULE + 1));
  assertEquals(large.status, ENOEXEC);
  assertEquals(shop.blocks, 1); // what is reserved
});

Deno.test("what is no module, or not a whole one, is told so wherever it ends", () => {
  const shop = new Shop();
  const reasonOf = (...bytes: number[]): string => {
    const { status, reason } = shop.tryInstall(new Uint8Array(bytes));
    assertEquals(status, ENOEXEC);
    return reason;
  };
  const whole = [...procedure(i32(7))];
  const head = whole.slice(0, 8);
  assertEquals(reasonOf(), "it is empty, at byte 0 of the module");
  assertEquals(
    reasonOf(...new TextEncoder().encode("no module")),
    "it is no WebAssembly module, at byte 0 of the module",
  );
  assertEquals(
    reasonOf(...head.slice(0, 4), 2, 0, 0, 0),
    "it is of another version of WebAssembly, at byte 4 of the module",
  );
  assertEquals(reasonOf(...head, 1, 3, 0), "it is cut short, at byte 8 of the module");
  assertEquals(reasonOf(...head), "it has no code, at byte 8 of the module");
  assertEquals(
    reasonOf(...head, 1, ...Array(200).fill(0x80), 0),
    "it has a number of more than 32 bits, at byte 9 of the module",
  );
  for (let length = 1; length < whole.length; length++) {
    assertMatch(
      reasonOf(...whole.slice(0, length)),
      /^it (is cut short|has no code), at byte \d+ of the module$/,
    );
  }
  assertEquals(shop.blocks, 1); // what is reserved
});

Deno.test("the reason of a refusal is cut short where the datagram has no room for it", () => {
  const shop = new Shop();
  const pointer = shop.malloc(16);
  const read = word(1, READ) + fields(pointer, 65507 - 2 * 16 - 10);
  const reply = shop.ask(read + word(2, INSTALL) + fields(pointer, 16))!;
  assertEquals(reply.length / 2, 65507);
  const last = reply.slice(-2 * 26);
  assertEquals(last.slice(0, 32), head(2, INSTALL, ENOEXEC, 10));
});

Deno.test("a module outside the heap is EFAULT", () => {
  const shop = new Shop();
  for (const pointer of [0, HEAP_BASE - 1, HEAP_BASE + SIZE - 7]) {
    assertEquals(shop.request(INSTALL, fields(pointer, 8)).status, EFAULT);
  }
});

Deno.test("there are at most 64 procedures, and one that goes makes room", () => {
  const shop = new Shop();
  const modules = Array.from({ length: MAX_PROCEDURES + 1 }, (_, i) => procedure(i32(i)));
  const handles = modules.slice(1).map((module) => shop.install(module));
  assertEquals(new Set(handles).size, MAX_PROCEDURES);
  assertEquals(shop.tryInstall(modules[0]!).status, ENOMEM);
  assertEquals(shop.install(modules[7]!), handles[6]); // it is there already
  assertEquals(shop.call(handles[40]!), { status: 0, value: 41 });
  shop.uninstall(handles[40]!);
  const handle = shop.install(modules[0]!);
  assertEquals(shop.call(handle), { status: 0, value: 0 });
  assertEquals(shop.call(handles[40]!).status, ENOENT);
});

Deno.test("a module of 64 KiB is admitted, and one of a byte more is not", () => {
  const shop = new Shop();
  const small = procedure(i32(5), { head: section(0, [...name("padding")]) });
  const padding = (length: number) =>
    procedure(i32(5), { head: section(0, [...name("padding"), ...Array(length).fill(0)]) });
  const most = MAX_MODULE - small.length - 2; // two more bytes for its length
  assertEquals(padding(most).length, MAX_MODULE);
  assertEquals(shop.call(shop.install(padding(most))), { status: 0, value: 5 });
  assertEquals(shop.tryInstall(padding(most + 1)).status, ENOEXEC);
});

Deno.test("only who has proven its address installs, calls and uninstalls, --unvalidated or not", () => {
  for (const unvalidated of [false, true]) {
    const shop = new Shop({ unvalidated });
    const handle = shop.install(SUM);
    shop.from("192.0.2.1", 40000);
    assertEquals(shop.request(INSTALL, fields(FIRST, 64)).status, EPERM);
    assertEquals(shop.call(handle, 1, 2).status, EPERM);
    assertEquals(shop.uninstall(handle), EPERM);
  }
});

Deno.test("a repeated call is answered from the cache: done, out of fuel, or trapped, it is not done again", () => {
  const shop = new Shop();
  const counter = shop.malloc(16);
  const count = [
    ...i32(offset(counter)),
    ...i32(offset(counter)),
    ...load(),
    ...i32(1),
    ...add,
    ...store(),
  ];
  const cases: [module: Uint8Array, status: number][] = [
    [procedure([...count, ...i32(77)]), 0],
    [procedure([...count, ...loop(0x0c, 0), ...i32(0)]), ETIME],
    [procedure([...count, ...unreachable]), ECANCELED],
  ];
  let times = 0;
  for (const [i, [module, status]] of cases.entries()) {
    const handle = shop.install(module);
    const request = word(9000 + i, CALL) + fields(handle, 0);
    const reply = shop.ask(request)!;
    const body = status === 0 ? fields(77) : "";
    assertEquals(reply, head(9000 + i, CALL, status, body.length / 2) + body);
    times++;
    assertEquals(shop.ask(request), reply);
    assertEquals(parseInt(shop.read(counter, 1), 16), times);
    assertEquals(shop.service.counters[Counter.replays], times);
  }
});

Deno.test("what runs out of fuel is ETIME, what is trapped ECANCELED, and the daemon goes on", () => {
  const shop = new Shop({ fuel: 10_000 });
  const deep = [...get(0), ...get(1), ...call(0)];
  const cases: [what: string, module: Uint8Array, status: number][] = [
    ["an endless loop", ENDLESS, ETIME],
    ["unreachable", procedure(unreachable), ECANCELED],
    ["division by zero", procedure([...i32(1), ...i32(0), 0x6d]), ECANCELED],
    ["a load outside the heap", procedure([...i32(-4), ...load()]), ECANCELED],
    [
      "a store outside the heap",
      procedure([...i32(SIZE), ...i32(1), ...store(), ...i32(0)]),
      ECANCELED,
    ],
    [
      "filling for ever",
      procedure([...loop(...i32(0), ...i32(0), ...i32(60000), ...fill, 0x0c, 0), ...i32(0)]),
      ETIME,
    ],
    ["recursion", moduleOf([body(deep)]), ETIME],
  ];
  for (const [what, module, status] of cases) {
    const handle = shop.install(module);
    assertEquals(shop.call(handle).status, status, what);
    assertEquals(shop.call(handle).status, status, what);
  }
  const sum = shop.install(SUM);
  assertEquals(shop.call(sum, 1, 2).value, 3);
});

Deno.test("recursion that has fuel enough uses up the stack, and is trapped", () => {
  const shop = new Shop({ fuel: 2 ** 30 });
  const handle = shop.install(
    moduleOf([body([...get(0), ...get(1), ...call(0), ...i32(1), ...add])]),
  );
  assertEquals(shop.call(handle).status, ECANCELED);
});

Deno.test("a procedure that allocates until the stack is used up leaves the allocator sound", () => {
  const shop = new Shop({ size: 8 * SIZE, fuel: 2 ** 30 });
  // run(depth, link): block = malloc(16); *block = link; *arguments = block; run(depth, block)
  for (const locals of [[], [[...leb(200), I64]]]) {
    const used = [...Array(locals.length === 0 ? 0 : 200).keys()].flatMap((
      i,
    ) => [...get(3 + i), 0x42, 1, 0x7c, 0x21, ...leb(3 + i)]);
    const handle = shop.install(moduleOf([
      body([
        ...used,
        ...i32(16),
        ...call(0),
        0x22,
        2,
        ...get(1),
        ...store(),
        ...get(0),
        ...get(2),
        ...store(),
        ...get(0),
        ...get(2),
        ...call(1),
        ...used,
      ], [[1, I32], ...locals]),
      body([...get(0), ...i32(0), ...call(1)]),
    ], { imports: [MALLOC, MEMORY] }));
    const before = shop.blocks;
    assertEquals(shop.call(handle, 0).status, ECANCELED);
    const allocated = shop.blocks - before;
    assert(allocated > 100, `${allocated} blocks`);
    const link = (offset: number) => {
      const bytes = Uint8Array.fromHex(shop.read(HEAP_BASE + offset, 4));
      return new DataView(bytes.buffer).getUint32(0, true);
    };
    let freed = 0;
    for (let block = link(RESERVED - MAX_ARGUMENTS); block !== 0;) {
      const next = link(block);
      shop.free(HEAP_BASE + block);
      freed++;
      block = next;
    }
    // The last may have been allocated and not linked: the stack ended between the two.
    assert(allocated - freed <= 1, `${allocated} allocated, ${freed} freed`);
  }
});

Deno.test("a procedure that stores until the stack is used up has written no page that passes for zero", () => {
  const size = 64 * SIZE;
  for (let count = 0; count < 10; count++) { // locals that live on: frames of other sizes
    const state = newState({ memory: size, replayCache: 1024 });
    const memory = newHeapMemory(size);
    const shop = new Shop({ size, fuel: 2 ** 30, state, memory });
    const locals = Array.from({ length: count }, (_, i) => 2 + i);
    // store(address, length): *address = 1; store(address + 4096, length)
    const handle = shop.install(moduleOf([
      body([
        ...locals.flatMap((local) => [...get(0), ...i32(local), ...add, ...set(local)]),
        ...[...get(0), ...i32(1), ...store()],
        ...[...get(0), ...i32(4096), ...add, ...get(1), ...call(0)],
        ...locals.flatMap((local) => [...get(local), ...add]),
      ], [[count, I32]]),
      body([...i32(2 * RESERVED), ...get(1), ...call(0)]),
    ]));
    assertEquals(shop.call(handle).status, ECANCELED);
    const words = new Int32Array(memory.buffer);
    let written = 0;
    for (let page = 2 * RESERVED / 4096; words[1024 * page] === 1; page++, written++) {
      assertEquals(state.heap.dirty[page], 1, `page ${page} with ${count} locals`);
    }
    assert(written > 1000, `${written} pages`);
  }
});

Deno.test("what a procedure has stored is zero again when it is allocated anew", () => {
  const cases: Record<string, number[]> = {
    "a store": [...arg(0), ...i32(-1), ...store(5000)],
    "a store over the end of a page": [...arg(0), ...i32(-1), ...store(4094)],
    "fill": [...arg(0), ...i32(255), ...i32(16384), ...fill],
  };
  for (const [what, code] of Object.entries(cases)) {
    const shop = new Shop();
    const handle = shop.install(procedure([...code, ...i32(0)]));
    const block = shop.malloc(16384);
    assertEquals(shop.call(handle, offset(block)).status, 0);
    assert(/[^0]/.test(shop.read(block, 16384)), what);
    shop.free(block);
    assertEquals(shop.malloc(16384), block);
    assertEquals(shop.read(block, 16384), "00".repeat(16384), what);
  }
});

Deno.test("what a procedure has stored moves with its block", () => {
  const shop = new Shop();
  const handle = shop.install(procedure([
    ...arg(0),
    ...i32(0x11223344),
    ...store(5000),
    ...arg(0),
    ...i32(0x55667788),
    ...store(12286),
    ...i32(0),
  ]));
  const block = shop.malloc(16384);
  const wall = shop.malloc(16384);
  assertEquals(shop.call(handle, offset(block)).status, 0);
  const { body } = shop.request(REALLOC_OP, fields(block, 65536));
  const moved = parseInt(body, 16);
  assertNotEquals(moved, block);
  assertEquals(shop.read(moved + 5000, 4), "44332211");
  assertEquals(shop.read(moved + 12286, 4), "88776655");
  shop.free(moved);
  shop.free(wall);
});

Deno.test("a procedure allocates, moves and frees what clients can read and free", () => {
  const shop = new Shop();
  // block = malloc(100); *block = argument; return realloc(block, 100000)
  const handle = shop.install(procedure([
    ...i32(100),
    ...call(0),
    0x22,
    2,
    ...arg(0),
    ...store(),
    ...get(2),
    ...i32(100_000),
    ...call(2),
  ], { imports: [MALLOC, FREE, REALLOC, MEMORY], locals: [[1, I32]] }));
  const { status, value } = shop.call(handle, 0x01020304);
  assertEquals(status, 0);
  assertEquals(shop.read(HEAP_BASE + value, 8), "0403020100000000");
  assertEquals(shop.blocks, 2);
  const free = shop.install(
    procedure([...arg(0), ...call(0), ...i32(0)], { imports: [FREE, MEMORY] }),
  );
  assertEquals(shop.call(free, value), { status: 0, value: 0 });
  assertEquals(shop.blocks, 1);
  // What makes no sense does nothing: twice, NULL, inside a block, what is reserved, beyond the heap.
  for (const wrong of [value, 0, 16, RESERVED + 8, SIZE, -16]) {
    assertEquals(shop.call(free, wrong), { status: 0, value: 0 });
  }
  assertEquals(shop.blocks, 1);
});

Deno.test("malloc of a procedure is NULL where the heap is full, and for more than the heap", () => {
  const shop = new Shop();
  const handle = shop.install(procedure([...arg(0), ...call(0)], { imports: [MALLOC, MEMORY] }));
  for (const length of [SIZE, SIZE + 1, -1]) {
    assertEquals(shop.call(handle, length), { status: 0, value: 0 });
  }
  assertNotEquals(shop.call(handle, 0).value, 0);
});

Deno.test("offsets of 2 GiB and more come and go as they should", () => {
  const size = 4 * 1024 ** 3;
  const shop = new Shop({ size, fuel: 2 ** 30 });
  // What is not reserved of the lower half: each is the buddy of all before it.
  for (let length = 2 ** 30; length >= RESERVED; length /= 2) shop.malloc(length);
  const handle = shop.install(procedure([
    ...i32(2 ** 20),
    ...call(0),
    0x22,
    2,
    ...arg(0),
    ...store(100),
    ...get(2),
    ...i32(2 ** 21),
    ...call(2),
  ], { imports: [MALLOC, FREE, REALLOC, MEMORY], locals: [[1, I32]] }));
  const { status, value } = shop.call(handle, 0x01020304);
  assertEquals(status, 0);
  assert(value >= 2 ** 31, `${value}`);
  assertEquals(shop.read(HEAP_BASE + value + 100, 4), "04030201");
  const free = shop.install(
    procedure([...arg(0), ...call(0), ...i32(0)], { imports: [FREE, MEMORY] }),
  );
  const before = shop.blocks;
  shop.call(free, value);
  assertEquals(shop.blocks, before - 1);
});

Deno.test("what is reserved is given to nobody, and nobody frees or moves it", () => {
  const shop = new Shop();
  const first = shop.malloc(16);
  assertEquals(first, FIRST);
  for (const pointer of [HEAP_BASE, HEAP_BASE + 16]) {
    assertEquals(shop.request(FREE_OP, fields(pointer)).status, EFAULT);
    assertEquals(shop.request(REALLOC_OP, fields(pointer, 100)).status, EFAULT);
  }
  const pointers = new Set<number>();
  for (let pointer = first; pointer !== 0; pointer = shop.malloc(4096)) pointers.add(pointer);
  assertEquals(Math.min(...pointers), FIRST);
});

Deno.test("a quota counts what procedures allocate to who calls them, and static data to who installs", () => {
  const quota = 8192;
  const shop = new Shop({ quota });
  shop.from("127.0.0.1", 40000);
  const malloc = shop.install(procedure([...arg(0), ...call(0)], { imports: [MALLOC, MEMORY] }));
  assertNotEquals(shop.call(malloc, 4096).value, 0);
  assertNotEquals(shop.call(malloc, 4096).value, 0);
  assertEquals(shop.call(malloc, 16).value, 0);
  shop.from("127.0.0.2", 40000);
  assertNotEquals(shop.call(malloc, 8192).value, 0);
  assertEquals(shop.malloc(16), 0);
  shop.from("127.0.0.3", 40000);
  const withData = procedure(i32(0), {
    head: section(0, [...name("dylink.0"), 1, 5, ...leb(4096), 0, 0, 0]),
  });
  const handle = shop.install(withData);
  assertEquals(shop.malloc(8192), 0);
  assertNotEquals(shop.malloc(4096), 0);
  shop.from("127.0.0.4", 40000);
  assertEquals(shop.uninstall(handle), 0);
  shop.from("127.0.0.3", 40000);
  assertNotEquals(shop.malloc(4096), 0);
});

Deno.test("static data is put where __memory_base says, is kept between calls, and freed in the end", () => {
  const shop = new Shop();
  const base = [...name("env"), ...name("__memory_base"), 3, I32, 0];
  // Counts in its data, which begins with 40, and returns the old count.
  const counter = procedure([
    0x23,
    0,
    0x22,
    2,
    ...load(8),
    ...get(2),
    ...get(2),
    ...load(8),
    ...i32(1),
    ...add,
    ...store(8),
  ], {
    imports: [MEMORY, base],
    locals: [[1, I32]],
    head: section(0, [...name("dylink.0"), 1, 4, 16, 3, 0, 0]),
    sections: { 11: vector([[0, 0x23, 0, ...i32(8), 0x6a, 0x0b, 1, 40]]) },
  });
  const handle = shop.install(counter);
  assertEquals(shop.blocks, 2);
  assertEquals([1, 2, 3].map(() => shop.call(handle).value), [40, 41, 42]);
  shop.uninstall(handle);
  assertEquals(shop.blocks, 1);
  // The page of its data is not taken for a clean one.
  assertEquals(shop.read(shop.malloc(16), 16), "00".repeat(16));
});

Deno.test("start function, relocations and constructors run once, in this order, and are metered", () => {
  const shop = new Shop();
  const block = shop.malloc(16);
  const digit = (value: number) =>
    body([
      ...i32(offset(block)),
      ...i32(offset(block)),
      ...load(),
      ...i32(10),
      0x6c,
      ...i32(value),
      ...add,
      ...store(),
    ]);
  const exported = (what: string, index: number) => [...name(what), 0, index];
  const bodies = [digit(3), digit(1), digit(2), body([...i32(offset(block)), ...load()])];
  const exports = [
    exported("_initialize", 0),
    exported("__wasm_call_ctors", 0),
    exported("__wasm_apply_data_relocs", 2),
    exported("run", 3),
  ];
  const handle = shop.install(
    moduleOf(bodies, { functions: [3, 3, 3, 0], exports, sections: { 8: [1] } }),
  );
  assertEquals([shop.call(handle).value, shop.call(handle).value], [123, 123]);
  const endless = moduleOf([body(loop(0x0c, 0)), body(i32(0))], {
    functions: [3, 0],
    sections: { 8: [0] },
  });
  assertEquals(shop.tryInstall(endless).status, ETIME);
  const trapped = moduleOf([body(unreachable), body(i32(0))], {
    functions: [3, 0],
    sections: { 8: [0] },
  });
  assertEquals(shop.tryInstall(trapped).status, ECANCELED);
  const { status, reason } = shop.tryInstall(procedure(i32(0), {
    sections: { 4: vector([[0x70, 0, 1]]), 9: vector([[0, ...i32(7), 0x0b, 1, 0]]) },
  }));
  assertEquals(status, ENOEXEC);
  assert(reason.includes("table"), reason);
});

Deno.test("calls share the time of a turn, and the first is never refused", () => {
  const shop = new Shop({ fuel: 2_000_000 });
  const handle = shop.install(ENDLESS);
  const calls = [1, 2, 3].map((tag) => word(tag + 100, CALL) + fields(handle, 0)).join("");
  assertEquals(
    shop.ask(calls),
    head(101, CALL, ETIME, 0) + head(102, CALL, EAGAIN, 0) + head(103, CALL, EAGAIN, 0),
  );
  // What was refused is done when it is asked for again, and what was done is not.
  assertEquals(
    shop.ask(calls),
    head(101, CALL, ETIME, 0) + head(102, CALL, ETIME, 0) + head(103, CALL, EAGAIN, 0),
  );
});

Deno.test("what asks for more than its fuel counts as work for its fuel, and no more", () => {
  const shop = new Shop({ fuel: 10_000 });
  const handle = shop.install(procedure([...i32(0), ...i32(0), ...i32(-1), ...fill, ...i32(0)]));
  shop.service.beginTurn();
  const before = shop.service.counters[Counter.work]!;
  assertEquals(shop.call(handle).status, ETIME);
  shop.service.beginTurn();
  assertEquals(shop.service.counters[Counter.work]! - before, 4 * 10_000);
});

Deno.test("arguments up to 4,096 bytes come as they are, longer ones are EINVAL", () => {
  const shop = new Shop();
  const handle = shop.install(procedure([
    ...get(0),
    ...get(1),
    ...add,
    ...i32(4),
    0x6b,
    ...load(),
    ...get(1),
    ...add,
  ]));
  const bytes = "00".repeat(MAX_ARGUMENTS - 4) + "01000000";
  const { status, body } = shop.request(CALL, fields(handle, MAX_ARGUMENTS) + bytes);
  assertEquals([status, body], [0, fields(MAX_ARGUMENTS + 1)]);
  const longer = shop.request(CALL, fields(handle, MAX_ARGUMENTS + 1) + bytes + "00");
  assertEquals(longer.status, EINVAL);
  const cut = shop.request(CALL, fields(handle, 8) + "00");
  assertEquals(cut.status, EINVAL);
});

Deno.test("clearing memory for a procedure is paid for with fuel", () => {
  const size = 64 * SIZE;
  const shop = new Shop({ size, fuel: 1_000_000 });
  const block = shop.malloc(32 * SIZE);
  const dirt = shop.install(
    procedure([...arg(0), ...i32(1), ...i32(12 * SIZE), ...fill, ...i32(0)]),
  );
  for (const part of [0, 12]) {
    assertEquals(shop.call(dirt, offset(block) + part * SIZE).status, 0);
  }
  shop.free(block);
  const handle = shop.install(procedure([...arg(0), ...call(0)], { imports: [MALLOC, MEMORY] }));
  // 24 MiB are dirty, and a million units clear 16: two tries are wanted.
  assertEquals(shop.call(handle, 32 * SIZE).status, ETIME);
  const { status, value } = shop.call(handle, 32 * SIZE);
  assertEquals([status, value], [0, offset(block)]);
  for (const at of [0, 12 * SIZE - 4, 12 * SIZE, 24 * SIZE - 4]) {
    assertEquals(shop.read(block + at, 4), "00000000");
  }
});

Deno.test("types of functions that procedures may import are those of the table", () => {
  assertEquals(TYPES.length, 4);
  assertEquals([...drop, ...iff()].length, 4);
});
