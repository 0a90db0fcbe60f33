/** A daemon over a heap file that is ended again and again while clients work, and is checked by a model. */

import { assert, assertEquals } from "@std/assert";
import { Remote } from "../../lib/client/remote.ts";
import { Random } from "../testing.ts";
import { done, MALLOCD, Mallocd, parseLogfmt, run } from "./programs.ts";

const CLIENTS = 6;
const MEMORY = "16MiB";
/** Longer than a restart takes, on a machine that does much else. */
const TIMEOUT_MS = 20_000;

/** A client that knows what it has: each block's bytes, and a counter at the beginning of all of them. */
class Worker {
  readonly blocks = new Map<bigint, Uint8Array>();
  operations = 0;
  readonly #random: Random;

  constructor(readonly remote: Remote, readonly shared: bigint, seed: number) {
    this.#random = new Random(seed);
  }

  async work(isOver: () => boolean): Promise<void> {
    while (!isOver()) {
      await this.#step();
      this.operations++;
    }
  }

  async #step(): Promise<void> {
    const random = this.#random;
    const pointers = [...this.blocks.keys()];
    if (pointers.length === 0 || pointers.length < 40 && random.chance(0.3)) {
      const length = 1 + random.below(3000);
      this.blocks.set(await this.remote.malloc(length), new Uint8Array(length));
      return;
    }
    const pointer = random.pick(pointers);
    const bytes = this.blocks.get(pointer)!;
    await random.pick([
      async () => {
        await this.remote.free(pointer);
        this.blocks.delete(pointer);
      },
      async () => {
        const length = 1 + random.below(6000);
        const moved = await this.remote.realloc(pointer, length);
        const resized = new Uint8Array(length);
        resized.set(bytes.subarray(0, length));
        this.blocks.delete(pointer);
        this.blocks.set(moved, resized);
      },
      async () => {
        const data = random.bytes(1 + random.below(bytes.length));
        const at = random.below(bytes.length - data.length + 1);
        await this.remote.write(pointer + BigInt(at), data);
        bytes.set(data, at);
      },
      async () => void await this.remote.fetchAndAdd(this.shared, 1n).then(() => this.adds++),
      async () => assertEquals(await this.remote.read(pointer, bytes.length), bytes),
    ])();
  }

  adds = 0;

  async check(): Promise<void> {
    for (const [pointer, bytes] of this.blocks) {
      assertEquals(await this.remote.read(pointer, bytes.length), bytes);
    }
  }
}

/**
 * Has clients work while something happens to their daemon, and until it has. Throws if anything that was
 * answered is lost or was done twice; returns how many blocks they have in the end.
 */
export async function workDuring(
  server: string,
  seed: number,
  happen: (isOver: () => boolean) => Promise<void>,
): Promise<{ blocks: number; operations: number }> {
  const remotes = await Promise.all(
    Array.from({ length: CLIENTS }, () => Remote.connect({ server, timeout: TIMEOUT_MS })),
  );
  try {
    const shared = await remotes[0]!.malloc(8);
    const workers = remotes.map((remote, i) => new Worker(remote, shared, seed + i));
    let isOver = false;
    const working = Promise.all(workers.map((worker) => worker.work(() => isOver)));
    working.catch(() => isOver = true);
    await happen(() => isOver);
    isOver = true;
    await working;
    for (const worker of workers) await worker.check();
    const adds = workers.reduce((sum, worker) => sum + worker.adds, 0);
    const value = await remotes[0]!.read(shared, 8);
    assertEquals(new DataView(value.buffer).getBigUint64(value.byteOffset), BigInt(adds));
    return {
      blocks: workers.reduce((sum, worker) => sum + worker.blocks.size, 1),
      operations: workers.reduce((sum, worker) => sum + worker.operations, 0),
    };
  } finally {
    await Promise.all(remotes.map((remote) => remote.close()));
  }
}

export interface Killing {
  kills: number;
  seed: number;
  /** SIGKILL if it is left out. */
  signal?: "SIGKILL" | "SIGTERM";
}

/** Throws if anything that was answered is lost or was done twice, or if a block is left that nobody has. */
export async function killUnderLoad(
  path: string,
  { kills, seed, signal = "SIGKILL" }: Killing,
): Promise<void> {
  const random = new Random(seed);
  const args = ["--heap-file", path, "--memory", MEMORY, "--strict"];
  let daemon = await Mallocd.start(args);
  const { server, port } = daemon;
  try {
    const { blocks, operations } = await workDuring(server, seed, async (isOver) => {
      for (let kill = 0; kill < kills && !isOver(); kill++) {
        await new Promise((resolve) => setTimeout(resolve, 20 + random.below(200)));
        const { code, stderr } = await daemon.stop(signal);
        if (signal === "SIGTERM") assertEquals(code, 0, stderr);
        daemon = await Mallocd.start([...args, "--port", String(port)]);
      }
    });
    assert(operations > 20 * kills, `only ${operations} operations`);
    await daemon.stop("SIGKILL");
    const audited = await run(MALLOCD, ["audit", path]);
    assertEquals(audited, done(`${path}: a heap of ${MEMORY}, no fault found\n`));
    daemon = await Mallocd.start(args);
    const { stderr, code } = await daemon.stop("SIGTERM");
    const stopped = stderr.split("\n").find((line) => line.includes("msg=stopped"));
    assertEquals([code, parseLogfmt(stopped ?? "msg=none")["blocks"]], [0, String(blocks)], stderr);
  } finally {
    await daemon.stop("SIGKILL");
  }
}
