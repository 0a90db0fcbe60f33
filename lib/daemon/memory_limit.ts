/**
 * How much memory there is for a daemon: the machine's, or less in a cgroup (a container, a unit with
 * MemoryMax=).
 */

import { openLibc, Unavailable } from "../system/libc.ts";
import { READING, readText } from "../system/text.ts";

/** A limit in bytes, and whose it is. */
export interface MemoryLimit {
  bytes: number;
  owner: "machine" | "cgroup";
}

/** The text of a file; undefined if it cannot be read. */
type ReadText = (path: string) => string | undefined;

/** Where the two versions of cgroups are mounted, and which of their files has the limit (cgroups(7)). */
const V1 = { mount: "/sys/fs/cgroup/memory", file: "memory.limit_in_bytes" };
const V2 = { mount: "/sys/fs/cgroup", file: "memory.max" };

/** The smallest limit that holds for this process; undefined if nothing tells. */
export function memoryLimit(): MemoryLimit | undefined {
  if (Deno.build.os !== "linux") return undefined;
  try {
    const libc = openLibc(READING);
    try {
      return smallestLimit((path) => readText(libc.symbols, path));
    } finally {
      libc.close();
    }
  } catch (error) {
    if (error instanceof Unavailable) return undefined;
    throw error;
  }
}

/** The same, told by files that `read` reads. */
export function smallestLimit(read: ReadText): MemoryLimit | undefined {
  const kibibytes = /^MemTotal: +(\d+) kB$/m.exec(read("/proc/meminfo") ?? "")?.[1];
  let limit: MemoryLimit | undefined;
  if (kibibytes !== undefined) limit = { bytes: Number(kibibytes) * 1024, owner: "machine" };
  for (const path of limitFiles(read("/proc/self/cgroup") ?? "")) {
    const text = read(path)?.trim() ?? "";
    if (!/^\d+$/.test(text)) continue; // "max", or no such file
    const bytes = Number(text);
    if (limit === undefined || bytes < limit.bytes) limit = { bytes, owner: "cgroup" };
  }
  return limit;
}

/**
 * The files with the limits of a process whose /proc/self/cgroup is this: those of its cgroup and of all
 * above it, for each of them counts, and in a container the root is what can be seen of its own.
 */
export function limitFiles(cgroups: string): string[] {
  const files: string[] = [];
  for (const line of cgroups.split("\n")) {
    const [, controllers = "", path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (path === undefined) continue;
    const isV2 = controllers === "";
    if (!isV2 && !controllers.split(",").includes("memory")) continue;
    const { mount, file } = isV2 ? V2 : V1;
    const names = path.split("/").filter((name) => name !== "");
    for (let depth = names.length; depth >= 0; depth--) {
      files.push([mount, ...names.slice(0, depth), file].join("/"));
    }
  }
  return files;
}
