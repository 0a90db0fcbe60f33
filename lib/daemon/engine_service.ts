/** The service of an engine, and its heap. What only some daemons need for it is loaded when it is asked for. */

import { Heap, newHeapMemory } from "../heap/heap.ts";
import type { Release } from "../heap/reclaim.ts";
import type { EngineOptions } from "./engine.ts";
import { RESERVED } from "./procedures/limits.ts";
import { Service, WORK_PER_TURN } from "./service.ts";

/** What only some engines have. */
interface EngineParts {
  /** It hears only senders who have proven their address to it. */
  validated?: boolean;
  /** How it gives pages of the heap's memory back to the kernel. */
  release?: (memory: WebAssembly.Memory) => Release;
}

/** The service of an engine that listens on `port`, over the engine's own I/O memory. */
export async function newService(
  options: EngineOptions,
  io: WebAssembly.Memory,
  port: number,
  { validated = false, release }: EngineParts = {},
): Promise<Service> {
  const { memory: size, strict, state, heapPlace, fuel } = options;
  const { memory, undo } = heapPlace === undefined
    ? { memory: newHeapMemory(size), undo: undefined }
    : (await import("./heap_file.ts")).mapHeap(heapPlace, state);
  const heap = new Heap({
    memory,
    release: release?.(memory),
    size,
    io,
    strict,
    workPerTurn: WORK_PER_TURN,
    reserved: fuel === undefined ? 0 : RESERVED,
    state,
    undo,
  });
  const procedures = fuel === undefined
    ? undefined
    : (await import("./procedures/procedures.ts")).Procedures;
  return new Service(options, { heap, io, port, validated, undo, procedures });
}
