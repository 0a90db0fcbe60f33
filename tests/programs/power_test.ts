/**
 * A machine that goes down: of what was stored since the file was last brought to the disk, any sectors
 * may have reached it, and the others not.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { HEAP_BASE } from "../../lib/heap/heap.ts";
import { HeapFile, HeapFileError } from "../../lib/daemon/heap_file.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { fields, Random, word } from "../testing.ts";
import {
  leave,
  malloc,
  read,
  restartMachine,
  SECTOR,
  start,
  withFolder,
  write,
} from "./heap_files.ts";

const ROUNDS = 20;

/** What is on the disk: each sector as it was, or as it became. */
function cutOff(random: Random, before: Uint8Array, after: Uint8Array): Uint8Array<ArrayBuffer> {
  const disk = new Uint8Array(Math.max(before.length, after.length));
  disk.set(before);
  const chance = random.pick([0.02, 0.5, 0.98]);
  for (let at = 0; at < after.length; at += SECTOR) {
    if (random.chance(chance)) disk.set(after.subarray(at, at + SECTOR), at);
  }
  return disk;
}

/** What the disk holds when power is back: refused, or all that clients would find in it. */
async function find(path: string, disk: Uint8Array<ArrayBuffer>): Promise<string | undefined> {
  restartMachine(disk);
  await Deno.writeFile(path, disk);
  try {
    const { fault } = HeapFile.audit(path);
    assertEquals(fault, undefined);
  } catch (error) {
    if (!(error instanceof HeapFileError)) throw error;
    assertMatch(error.message, /the machine went down while a daemon had it in use/);
    assertEquals(await Deno.readFile(path), disk);
    return undefined;
  }
  const { file, box } = start(path);
  const found = box.ask(read(HEAP_BASE, 60_000))! + box.ask(malloc(1, 0));
  file.close();
  return found;
}

function work(box: ReturnType<typeof start>["box"], random: Random): void {
  for (let i = 0; i < 50; i++) {
    const tag = random.word();
    random.pick([
      () => box.ask(malloc(tag, random.below(5000))),
      () => box.ask(word(tag, METHODS.free.opcode) + fields(HEAP_BASE + 4096 * random.below(10))),
      () => box.ask(write(HEAP_BASE + random.below(50_000), random.bytes(200).toHex())),
    ])();
  }
}

Deno.test("a heap file whose machine went down is refused, or is one that was left in good order", async () => {
  const random = new Random(7);
  const counts = { refused: 0, before: 0, after: 0 };
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    for (let round = 0; round < ROUNDS; round++) {
      const context = `seed 7, round ${round}`;
      await Deno.remove(path).catch(() => {});
      leave(path, "ended");
      const ended = await Deno.readFile(path);
      const earlier = await find(path, ended.slice());
      assert(earlier !== undefined, context);
      await Deno.writeFile(path, ended);
      const { file, box } = start(path);
      const begun = await Deno.readFile(path);
      work(box, random);
      const worked = await Deno.readFile(path);
      file.end();
      const closed = await Deno.readFile(path);
      const later = await find(path, closed.slice());
      // It went down while a daemon began; while it worked; while it ended.
      const moments = [[ended, begun, earlier], [begun, worked], [worked, closed, later]] as const;
      for (const [before, after, whole] of moments) {
        const found = await find(path, cutOff(random, before, after));
        assert(found === undefined || found === whole, context);
        counts[found === undefined ? "refused" : found === earlier ? "before" : "after"]++;
      }
    }
  });
  assert(counts.refused > ROUNDS && counts.before > 0 && counts.after > 0, JSON.stringify(counts));
});
