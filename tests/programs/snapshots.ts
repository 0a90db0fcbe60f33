/** Snapshots of a heap file that are made while clients work, each of which is checked by a model. */

import { assert, assertEquals } from "@std/assert";
import { Remote } from "../../lib/client/remote.ts";
import { Heap } from "../../lib/heap/heap.ts";
import { HeapFile, mapHeap } from "../../lib/daemon/heap_file.ts";
import { Refusal } from "../../lib/heap/refusal.ts";
import { Random } from "../testing.ts";
import { Mallocd } from "./programs.ts";

const MEMORY = 64 * 1024 * 1024;
const OPTIONS = { memory: MEMORY, replayCache: 65536 };
const CLIENTS = 4;
/** Counters of a client, each in another part of the heap. */
const COUNTERS = 12;
const STRETCH = 40_000;
const TIMEOUT_MS = 20_000;

/**
 * A client that adds 1 to its counters, one after the other and again and again: at any instant they are
 * all the same, or those that come first are 1 more. Between that, it fills a block with one byte in one
 * request, and allocates, resizes and frees others.
 */
class Worker {
  readonly counters: bigint[] = [];
  /** What the last counter is at the least, and the first one at the most. */
  done = 0n;
  begun = 0n;
  block = 0n;
  readonly #random: Random;

  constructor(readonly remote: Remote, seed: number) {
    this.#random = new Random(seed);
  }

  async prepare(): Promise<void> {
    for (let i = 0; i < COUNTERS; i++) this.counters.push(await this.remote.malloc(STRETCH));
    this.block = await this.remote.malloc(STRETCH);
  }

  async work(isOver: () => boolean): Promise<void> {
    const random = this.#random;
    const others: bigint[] = [];
    while (!isOver()) {
      this.begun++;
      for (const counter of this.counters) {
        assertEquals(await this.remote.fetchAndAdd(counter, 1n), this.begun - 1n);
      }
      this.done = this.begun;
      await this.remote.write(this.block, new Uint8Array(STRETCH).fill(random.below(256)));
      if (others.length < 20) others.push(await this.remote.malloc(1 + random.below(100_000)));
      else {
        const i = random.below(others.length);
        others[i] = await this.remote.realloc(others[i]!, 1 + random.below(100_000));
        const [freed] = others.splice(random.below(others.length), 1);
        await this.remote.free(freed!);
      }
      const written = random.bytes(500);
      await this.remote.write(random.pick(others), written.subarray(0, 1 + random.below(16)));
    }
  }
}

/** The heap of a file that nobody has. */
function open(path: string): { heap: Heap; file: HeapFile; io: WebAssembly.Memory } {
  const file = HeapFile.open(path, OPTIONS, { sparse: true });
  assert(file.isClean, "a snapshot is a file that was left in good order");
  assertEquals(file.findFault(OPTIONS), undefined);
  const { memory, undo } = mapHeap(file.place, file.state);
  const io = new WebAssembly.Memory({ initial: 2 });
  return { heap: new Heap({ memory, size: MEMORY, io, state: file.state, undo }), file, io };
}

function check(path: string, workers: readonly Worker[], least: readonly bigint[]): void {
  const { heap, file, io } = open(path);
  const read = (pointer: bigint, length: number) => {
    assertEquals(heap.read({ pointer: Number(pointer), length }, 0), Refusal.none);
    return new DataView(io.buffer, 0, length);
  };
  for (const [i, worker] of workers.entries()) {
    const values = worker.counters.map((counter) => read(counter, 8).getBigUint64(0));
    const [first, last] = [values[0]!, values.at(-1)!];
    const text = values.join();
    assert(values.every((value, at) => at === 0 || value <= values[at - 1]!), `torn: ${text}`);
    assert(last >= first - 1n && first <= worker.begun, `torn: ${text}`);
    assert(last >= least[i]!, `${least[i]} was answered before: ${text}`);
    const filled = read(worker.block, STRETCH);
    for (let at = 1; at < STRETCH; at++) {
      assert(filled.getUint8(at) === filled.getUint8(0), `torn: half a write of a block, at ${at}`);
    }
    assertEquals(heap.grainsOf({ pointer: Number(worker.block), length: 0 }), 4096);
  }
  file.close();
}

export interface Plan {
  snapshots: number;
  seed: number;
  /** More of the daemon's command line. */
  args?: readonly string[];
}

/** Throws if a snapshot is not what the heap was at one instant after it was asked for. */
export async function snapshotUnderLoad(
  path: string,
  { snapshots, seed, args = [] }: Plan,
): Promise<void> {
  await using daemon = await Mallocd.start(["--heap-file", path, "--memory", "64MiB", ...args]);
  const { server } = daemon;
  const remotes = await Promise.all(
    Array.from({ length: CLIENTS }, () => Remote.connect({ server, timeout: TIMEOUT_MS })),
  );
  try {
    const workers = remotes.map((remote, i) => new Worker(remote, seed + i));
    for (const worker of workers) await worker.prepare();
    let isOver = false;
    const working = Promise.all(workers.map((worker) => worker.work(() => isOver)));
    working.catch(() => isOver = true);
    for (let i = 0; i < snapshots && !isOver; i++) {
      const least = workers.map(({ done }) => done);
      await remotes[i % CLIENTS]!.snapshot();
      check(`${path}.snapshot`, workers, least);
    }
    isOver = true;
    await working;
    assert(workers.every(({ done }) => done > 10n), "too little was done meanwhile");
  } finally {
    await Promise.all(remotes.map((remote) => remote.close()));
  }
}
