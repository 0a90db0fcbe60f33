/**
 * What a daemon does with its heap file, and what it says of that: it opens it, brings it to the disk, makes
 * snapshots, and closes it. Loaded only where there is one.
 */

import { Chore, secondsLeft } from "./chore.ts";
import { HeapFile } from "./heap_file.ts";
import type { Log } from "./log.ts";
import type { Notify } from "./notify.ts";
import { nextSignal } from "./signals.ts";
import { StartError } from "./start_error.ts";
import type { StateOptions } from "./state.ts";
import { formatSize } from "../cli/sizes.ts";
import { FileError } from "../system/file.ts";
import { Errno, Unavailable } from "../system/libc.ts";

/** How often it is told how much is not on the disk yet, and what the service manager is to wait then. */
const SYNCING_MS = 1000;
const EXTENSION_MS = 30_000;

/** Looks through a heap file, and changes nothing in it. */
export function audit(path: string): number {
  try {
    const { memory, fault } = HeapFile.audit(path);
    if (fault !== undefined) throw fileFault(path, fault);
    console.log(`${path}: a heap of ${formatSize(memory)}, no fault found`);
    return 0;
  } catch (error) {
    throw fileError(error);
  }
}

function fileFault(path: string, fault: string): StartError {
  return new StartError(`${path} is damaged: ${fault}`, "a copy that was made of it, or remove it");
}

function fileError(error: unknown): unknown {
  if (!(error instanceof Unavailable)) return error;
  return new StartError(`a heap file cannot be had: ${error.message}`, "a daemon without");
}

/**
 * The heap file at `path`, open; with --check it is only looked at. It is libc that opens it, so that this
 * takes no permission but that of the syscall engine.
 */
export function openHeapFile(
  path: string,
  sizes: StateOptions,
  { sparse, verify, check }: { sparse: boolean; verify: boolean; check: boolean },
): HeapFile | undefined {
  try {
    const file = HeapFile.open(path, sizes, { sparse, check });
    const fault = verify ? file.findFault({ ...sizes, memory: file.place.heap }) : undefined;
    if (fault === undefined && !check) return file;
    file.abandon();
    if (fault !== undefined) throw fileFault(path, fault);
    return undefined;
  } catch (error) {
    throw fileError(error);
  }
}

/** Brings it to the disk and makes snapshots of it, as often as that many seconds, and when a client asks. */
export function keep(
  file: HeapFile,
  sizes: StateOptions,
  seconds: { sync: number; snapshot: number },
  say: Log,
): { syncing: Chore; snapshots: Chore } {
  const { sync, snapshot } = file.state.service;
  const syncing = new Chore(
    async () => await file.sync() ? 0 : Errno.EIO,
    sync,
    seconds.sync,
    () => say({ msg: "not synced", level: "error", file: file.path }),
  );
  const snapshots = new Chore(
    (signal) => makeSnapshot(file, sizes, signal, say),
    snapshot,
    seconds.snapshot,
  );
  return { syncing, snapshots };
}

/** Makes a snapshot, and says what became of it; returns why there is none, as Linux numbers it, or 0. */
async function makeSnapshot(
  file: HeapFile,
  sizes: StateOptions,
  signal: AbortSignal,
  say: Log,
): Promise<number> {
  const start = performance.now();
  try {
    const { rounds, haltMs } = await file.snapshot(sizes, signal);
    const ms = Math.round(performance.now() - start);
    say({ msg: "snapshot", file: file.snapshotPath, ms, rounds, halt_ms: haltMs.toFixed(2) });
    return 0;
  } catch (error) {
    const reason = signal.aborted ? "the daemon ends" : error instanceof Error ? error.message : "";
    say({ msg: "no snapshot", level: "error", file: file.snapshotPath, reason });
    return error instanceof FileError ? error.errno : Errno.EIO;
  }
}

/**
 * Brings all of it to the disk. If that takes its time, what is left and about how long that will be are
 * told again and again; a second signal ends the waiting. Resolves to false if the disk has failed.
 */
export async function endFile(
  file: HeapFile,
  isClosed: boolean,
  say: Log,
  notify: Notify | undefined,
): Promise<boolean> {
  const [start, before] = [performance.now(), file.unwritten()];
  const telling = setInterval(() => {
    const left = file.unwritten();
    const seconds = before === undefined || left === undefined
      ? undefined
      : secondsLeft(before, left, performance.now() - start);
    say({
      msg: "syncing",
      file: file.path,
      left: left && formatSize(left - left % 1024 ** 2),
      seconds,
      reason: "a second signal leaves that to the kernel",
    });
    notify?.(`EXTEND_TIMEOUT_USEC=${EXTENSION_MS * 1000}`);
  }, SYNCING_MS);
  const impatient = nextSignal();
  const isSynced = await Promise.race([file.sync(), impatient.then(() => undefined)]);
  clearInterval(telling);
  // If it is not marked, the next daemon finds it as if this one had been killed.
  const isKept = isSynced === true && isClosed ? file.end() : isSynced !== false;
  if (!isKept) say({ msg: "not synced", level: "error", file: file.path });
  return isKept;
}
