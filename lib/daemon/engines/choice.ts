/** The engines by name. Only the one that serves is loaded; that of most daemons is there at once. */

import { placeOf } from "../counters.ts";
import type { Engine, EngineOptions } from "../engine.ts";
import { loadLoop, serveSyscall } from "./syscall.ts";
import { Unavailable } from "../../system/libc.ts";

export const ENGINE_NAMES = ["auto", "datagram", "syscall", "quic"] as const;
export type EngineName = (typeof ENGINE_NAMES)[number];

/** An engine that serves and, if `auto` had to make do with the slower one, the reason. */
export interface Choice {
  engine: Engine;
  reason?: string;
}

/**
 * Begins with what takes the engine of that name longest, before there is a state to serve. Nothing comes of
 * it if the engine has no such thing, or cannot be had; `startEngine` says why.
 */
export function loadEngine(name: EngineName): Worker | undefined {
  if (name === "datagram" || name === "quic") return undefined;
  try {
    return loadLoop();
  } catch (error) {
    if (error instanceof Unavailable) return undefined;
    throw error;
  }
}

/**
 * Starts the engine of that name; `auto` is `syscall` where the platform and the permissions allow it,
 * else `datagram`. Rejects with Unavailable only if `syscall` was asked for by name. `worker` is what
 * `loadEngine` has returned, if it was called.
 */
export async function startEngine(
  name: EngineName,
  options: EngineOptions,
  worker?: Worker,
): Promise<Choice> {
  const choice = await choose(name, options, worker);
  options.state.service.counters[placeOf("engine", choice.engine.name)] = 1;
  return choice;
}

async function choose(
  name: EngineName,
  options: EngineOptions,
  worker: Worker | undefined,
): Promise<Choice> {
  if (name === "datagram") return { engine: await serveDatagram(options) };
  if (name === "quic") return { engine: await (await import("./quic.ts")).serveQuic(options) };
  try {
    return { engine: await serveSyscall(options, worker) };
  } catch (error) {
    if (name === "syscall" || !(error instanceof Unavailable)) throw error;
    return { engine: await makeDo(options, error.message), reason: error.message };
  }
}

async function serveDatagram(options: EngineOptions): Promise<Engine> {
  return await (await import("./datagram.ts")).serveDatagram(options);
}

/** The slower engine because the faster one cannot be had. Where it cannot be had either, both reasons count. */
async function makeDo(options: EngineOptions, reason: string): Promise<Engine> {
  try {
    return await serveDatagram(options);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new RangeError(`${error.message}, which cannot be had here: ${reason}`, { cause: error });
  }
}
