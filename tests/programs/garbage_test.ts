/**
 * What the syscall engine is made of stays what it is: V8 keeps a field as a small integer until it is given
 * something else. From then on it is a double, all code that knew it better is thrown away, and so is, by and
 * by, whatever is computed from it. The new code is slower, and what is run until there is any makes garbage.
 */

import { assert, assertEquals } from "@std/assert";
import { HOST, startTraced } from "../../bench/prober.ts";
import { runLoad } from "../../lib/client/load/run.ts";
import { LibcWire } from "../../lib/client/load/libc_wire.ts";
import { parseMix, parseSizes, type Workload } from "../../lib/client/load/workload.ts";
import { deno, ROOT } from "./programs.ts";
import { connect } from "../remote.ts";

const HEAP = 2 ** 33;

const CLASSIC = {
  protocol: "classic",
  clients: 2,
  inFlight: 4,
  perDatagram: 1,
  mix: parseMix("read=4,write=2,malloc=1,free=1")!,
  sizes: parseSizes("16-60000")!,
  timeout: 10_000,
} as const satisfies Workload;
const TAGGED = {
  ...CLASSIC,
  protocol: "tagged",
  mix: parseMix("read=4,write=2,malloc=1,free=1,realloc=1,cas=1,add=1")!,
} as const satisfies Workload;
const WORKLOADS: readonly Workload[] = [
  CLASSIC,
  TAGGED,
  { ...TAGGED, perDatagram: 8, sizes: parseSizes("16-5000")!, proves: true },
];

/** Of which so many are sent that their bytes are more than a small integer can count. */
const LONG = 60_000;
const LONG_READS: Workload = {
  ...CLASSIC,
  inFlight: 1,
  mix: parseMix("read=1")!,
  sizes: parseSizes(`${LONG}`)!,
};

/** The files whose code runs for a datagram, of those that keep numbers in fields. */
const SERVING = [
  ...["daemon/engines/syscall_worker", "daemon/service", "daemon/duplicate_request_cache"],
  ...["daemon/token", "heap/heap", "heap/buddy", "heap/undo", "heap/reclaim", "heap/changes"],
  ...["protocol/wire", "system/message", "system/hash"],
];

/** Lines like `[generalizing]size:s{Any;mutable}->d{Any;mutable} (+1 maps) [~decodeRequest+360 at file:///lib/x.ts:274]`. */
const CHANGE =
  /^\[generalizing\]([^:\n]+):s\{[^}\n]*\}->d.* \[\W*([^+\n]+)\+.* at file:.*\/lib\/(.*)\.ts:\d+\]$/gm;

/** Fields of a request that are meant to be doubles. They are from the first request on. */
const DOUBLES = ["pointer", "length"];

/** Other fields that were small integers, and that a daemon has made doubles when it has served everything. */
async function changesOf(options: readonly string[], longReads: number): Promise<string[]> {
  const flags = ["-q", "--v8-flags=--trace-generalization"];
  const daemon = await startTraced(flags, "syscall", "--memory", `${HEAP}`, ...options);
  const { port } = daemon;
  let trace = "";
  try {
    const wire = new LibcWire({ transport: "udp", hostname: HOST, port }, CLASSIC.clients, false);
    const terminal = { progress: () => {}, signal: new AbortController().signal };
    await using remote = await connect({ server: `${HOST}:${port}` });
    await remote.malloc(HEAP / 2);
    const load = (workload: Workload, ms: number) =>
      runLoad(workload, ms, { remote, wire, terminal });
    for (const workload of WORKLOADS) await load(workload, 50);
    for (let sent = 0; sent < longReads;) sent += (await load(LONG_READS, 200)).requests;
    await wire.close();
  } finally {
    trace = await daemon.end();
  }
  const changes = [...trace.matchAll(CHANGE)]
    .filter(([, field, , file]) => SERVING.includes(file!) && !DOUBLES.includes(field!))
    .map(([, field, where]) => `${field} in ${where}()`);
  return [...new Set(changes)].sort();
}

const KINDS: Record<string, (folder: string) => string[]> = {
  "in memory": () => [],
  "in a file": (folder) => ["--heap-file", `${folder}/heap`, "--sparse"],
  "with quotas, strictly": () => ["--quota", "7GiB", "--strict"],
};

for (const [kind, options] of Object.entries(KINDS)) {
  Deno.test(`while it serves a heap ${kind}, only addresses and lengths become doubles`, async () => {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-" });
    try {
      const longReads = kind === "in memory" ? 2 ** 31 / LONG : 0;
      assertEquals(await changesOf(options(folder), longReads), []);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

/**
 * Runs code that calls gc() twice; the result is what V8 collected in between. It tells by its trace, in
 * which a collection that was asked for is "testing". Nothing else may be printed: it would come first.
 * Three times at the most, until there is nothing: V8 compiles in other threads, and where these had no
 * processor, code was not warmed up.
 */
async function collectionsWithin(code: string): Promise<string[]> {
  const quiet = `console.log = () => {}; ${code}`;
  for (let tries = 3;; tries--) {
    const trace = await deno("eval", "-q", "--v8-flags=--trace-gc,--expose-gc", quiet);
    const lines = trace.trim().split("\n");
    const first = lines.findIndex((line) => line.includes("testing"));
    const last = lines.findLastIndex((line) => line.includes("testing"));
    assert(first !== -1 && first < last, trace);
    const collections = lines.slice(first + 1, last);
    if (collections.length === 0 || tries === 1) return collections;
  }
}

const at = (path: string) => new URL(path, ROOT).href;

Deno.test("bench/service.ts makes no garbage while it measures", async () => {
  const code = `const { main } = await import("${
    at("bench/service.ts")
  }"); main(200_000, 500_000);`;
  assertEquals(await collectionsWithin(code), []);
});

Deno.test("what is stored far up in a heap makes no garbage when it can be undone", async () => {
  const code = `
    const { Heap, HEAP_BASE, newHeapMemory } = await import("${at("lib/heap/heap.ts")}");
    const { allocate } = await import("${at("lib/heap/metadata.ts")}");
    const { buddyShape } = await import("${at("lib/heap/buddy.ts")}");
    const { heapShape } = await import("${at("lib/heap/heap.ts")}");
    const { newSavedMemory, Undo, undoShape } = await import("${at("lib/heap/undo.ts")}");
    const size = 3 * 1024 ** 3;
    const shapes = { undo: undoShape(), buddy: buddyShape(size / 16), heap: heapShape(size) };
    const state = allocate(shapes);
    const memory = newHeapMemory(size);
    const undo = new Undo(state.undo, newSavedMemory(2 ** 20), memory);
    const io = new WebAssembly.Memory({ initial: 1 });
    const heap = new Heap({ memory, size, io, state, undo });
    const span = { pointer: 0, length: 64 };
    const store = (times) => {
      for (let i = 0; i < times; i++) {
        span.pointer = HEAP_BASE + size - 64 * (1 + (i & 1023));
        span.length = 64;
        heap.write(span, 0);
        heap.add(span, 0, 128);
        heap.cas(span, 0, 128);
        undo.commit();
      }
    };
    store(500_000);
    gc();
    store(200_000);
    gc();
  `;
  assertEquals(await collectionsWithin(code), []);
});

Deno.test("a million calls of procedures make no garbage", async () => {
  const code = `const { serveCalls } = await import("${
    at("bench/procedure.ts")
  }"); serveCalls(1e6, 1e6);`;
  assertEquals(await collectionsWithin(code), []);
});

Deno.test("the check for garbage finds a few bytes a request", async () => {
  const code = "gc(); const kept = []; " +
    "for (let i = 0; i < 200_000; i++) kept[i & 15] = [i]; gc();";
  const collections = await collectionsWithin(code);
  assert(collections.length > 0);
});
