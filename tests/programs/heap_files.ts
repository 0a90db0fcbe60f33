/** Heap files that daemons without a socket have left, and bits of them that flip. */

import { assert } from "@std/assert";
import { HEAP_BASE } from "../../lib/heap/heap.ts";
import { HeapFile, HeapFileError, mapHeap } from "../../lib/daemon/heap_file.ts";
import type { StateOptions } from "../../lib/daemon/state.ts";
import { statusOf } from "../../lib/system/file.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { Box, fields, Random, word } from "../testing.ts";
import { run } from "./programs.ts";

statusOf("/"); // loads libc, which no test is to be blamed for

export const SIZE = 1024 * 1024;
export const OPTIONS = { memory: SIZE, replayCache: 16 };
export const SECTOR = 512;

/** A folder for the files of a test. */
export async function withFolder(test: (folder: string) => unknown): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function whyNoMounts(): Promise<string> {
  const tmpfs = ["-rm", "sh", "-c", "mount -t tmpfs none /mnt"];
  const isPossible = await run("unshare", tmpfs).then(({ code }) => code === 0, () => false);
  return isPossible ? "" : " (skipped: no file system can be mounted here)";
}

/** Why no file system of a test's own can be had, for the name of the test; else empty. */
export const noMounts = await whyNoMounts();

/** A daemon over a file, without a socket. */
export function start(path: string, options: StateOptions = OPTIONS) {
  const file = HeapFile.open(path, options, { sparse: true });
  file.begin();
  const { memory, undo } = mapHeap(file.place, file.state);
  return {
    file,
    box: new Box({ ...options, size: options.memory, state: file.state, memory, undo }),
  };
}

export const malloc = (tag: number, length: number) =>
  word(tag, METHODS.malloc.opcode) + fields(length);
export const write = (address: number, hex: string) =>
  fields(METHODS.write.opcode, address, hex.length / 2) + hex;
export const read = (address: number, length: number) =>
  fields(METHODS.read.opcode, address, length);

/** A file in which there is something, left by a daemon that was killed or has ended. */
export function leave(
  path: string,
  how: "killed" | "ended",
  options: StateOptions = OPTIONS,
): void {
  const { file, box } = start(path, options);
  for (let i = 0; i < 20; i++) box.ask(malloc(i + 1, 100 * i));
  box.ask(write(HEAP_BASE + 5000, "616263"));
  if (how === "ended") file.end();
  else file.close();
}

/** Makes a header that is in use that of an earlier start of the machine. */
export function restartMachine(disk: Uint8Array<ArrayBuffer>): void {
  const words = new BigUint64Array(disk.buffer, 0, SECTOR / 8);
  const [condition, bootHigh, checksum] = [3, 16, 21];
  if (words[condition] !== 1n) return;
  words[bootHigh]! ^= 1n;
  let hash = 0xcbf29ce484222325n;
  for (const byte of disk.subarray(0, 8 * checksum)) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  words[checksum] = hash;
}

/** Where the fields of the header end. */
const HEADER = 22 * 8;

/**
 * Flips bits of the header and of the state of a file that was left by a daemon that has ended, one after
 * the other. Throws if the file is opened all the same, although the bit means something.
 */
export async function flipBits(
  folder: string,
  { flips, seed }: { flips: number; seed: number },
): Promise<void> {
  const path = `${folder}/heap`;
  const random = new Random(seed);
  leave(path, "ended");
  const looked = HeapFile.open(path, OPTIONS, { sparse: true });
  const state = looked.place.heapAt + looked.place.heap;
  looked.close();
  const { size } = await Deno.stat(path);
  using content = await Deno.open(path, { read: true, write: true });
  const flip = async (at: number, bit: number) => {
    const byte = new Uint8Array(1);
    await content.seek(at, Deno.SeekMode.Start);
    await content.read(byte);
    byte[0]! ^= bit;
    await content.seek(at, Deno.SeekMode.Start);
    await content.write(byte);
  };
  let found = 0;
  for (let i = 0; i < flips; i++) {
    const at = random.chance(0.3) ? random.below(SECTOR) : state + random.below(size - state);
    const bit = 1 << random.below(8);
    await flip(at, bit);
    try {
      HeapFile.open(path, OPTIONS, { sparse: true }).close();
      assert(at < SECTOR && at >= HEADER, `seed ${seed}, flip ${i}: at ${at}`);
    } catch (error) {
      if (!(error instanceof HeapFileError)) throw error;
      found++;
    }
    await flip(at, bit);
  }
  assert(found > flips * 0.7, `found ${found}`);
  HeapFile.open(path, OPTIONS, { sparse: true }).close();
}
