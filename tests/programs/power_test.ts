/**
 * A machine that goes down: of what was stored since the file was last brought to the disk, any sectors
 * may have reached it, and the others not.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { HEAP_BASE } from "../../lib/heap/heap.ts";
import { HeapFile, HeapFileError } from "../../lib/daemon/heap_file.ts";
import { File } from "../../lib/system/file.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { fields, Random, word } from "../testing.ts";
import {
  leave,
  malloc,
  OPTIONS,
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
async function find(
  path: string,
  disk: Uint8Array<ArrayBuffer>,
  refusal = /the machine went down while a daemon had it in use/,
): Promise<string | undefined> {
  restartMachine(disk);
  await Deno.writeFile(path, disk);
  try {
    HeapFile.open(path, OPTIONS, { sparse: true }).close();
  } catch (error) {
    if (!(error instanceof HeapFileError)) throw error;
    assertMatch(error.message, refusal);
    assertEquals(await Deno.readFile(path), disk);
    return undefined;
  }
  assertEquals(HeapFile.audit(path).fault, undefined);
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

/** What is done to the disk while a snapshot is made. */
type Step =
  | { what: "truncated"; bytes: number }
  | { what: "written"; at: number; bytes: Uint8Array }
  | { what: "synced" | "renamed" | "published" };

/** Notes all that is done to the file which becomes the snapshot, and to its folder. */
async function steps(make: () => Promise<unknown>): Promise<Step[]> {
  const noted: Step[] = [];
  const { open } = File;
  const { write, truncate, sync, syncMeanwhile, writeMeanwhile, cloneMeanwhile } = File.prototype;
  let [made, folder]: (File | undefined)[] = [];
  File.open = (path, how) => {
    const file = open(path, how);
    if (how === "create") made = file;
    if (how !== "folder") return file;
    noted.push({ what: "renamed" }); // that is when it is brought to the disk
    return folder = file;
  };
  File.prototype.truncate = function (bytes) {
    if (this === made) noted.push({ what: "truncated", bytes });
    truncate.call(this, bytes);
  };
  File.prototype.write = function (bytes, at) {
    if (this === made) noted.push({ what: "written", at, bytes: bytes.slice() });
    write.call(this, bytes, at);
  };
  File.prototype.writeMeanwhile = function (bytes, at) {
    return Promise.resolve(this.write(bytes, at));
  };
  File.prototype.cloneMeanwhile = () => Promise.resolve(0);
  const note = (file: File) => {
    if (file === made) noted.push({ what: "synced" });
    if (file === folder) noted.push({ what: "published" });
  };
  File.prototype.sync = function () {
    sync.call(this);
    note(this);
  };
  File.prototype.syncMeanwhile = async function () {
    const isSynced = await syncMeanwhile.call(this);
    note(this);
    return isSynced;
  };
  try {
    await make();
  } finally {
    File.open = open;
    const before = { write, truncate, sync, syncMeanwhile, writeMeanwhile, cloneMeanwhile };
    Object.assign(File.prototype, before);
  }
  return noted;
}

Deno.test("a machine that goes down while a snapshot is made has the one before or the new one, whole", async () => {
  const seed = 8;
  const random = new Random(seed);
  const counts = { after: 0, refused: 0 };
  await withFolder(async (folder) => {
    const { file, box } = start(`${folder}/heap`);
    const turns = setInterval(() => {
      work(box, random);
      box.heap.beginTurn(0);
    });
    const { signal } = new AbortController();
    const make = () => file.snapshot(OPTIONS, signal);
    const looked = `${folder}/looked`;
    const lookAt = (disk: Uint8Array<ArrayBuffer>) => find(looked, disk, /./);
    const made = () => Deno.readFile(file.snapshotPath);
    await make();
    const before = await lookAt(await made());
    const noted = await steps(make);
    clearInterval(turns);
    const after = await lookAt(await made());
    assert(before !== undefined && after !== undefined && before !== after);
    assertEquals(noted.slice(-3).map(({ what }) => what), ["synced", "renamed", "published"]);

    let [onDisk, stored] = [new Uint8Array(), new Uint8Array()];
    let unsynced: [at: number, length: number][] = [];
    /** All has reached the disk but one of what was written. */
    const loseOne = () => {
      const disk = stored.slice();
      const [at, length] = random.pick(unsynced.length > 0 ? unsynced : [[0, 0]]);
      const earlier = new Uint8Array(length);
      earlier.set(onDisk.subarray(at, at + length));
      disk.set(earlier, at);
      return disk;
    };
    let hasName = false; // or will have it, if the folder is as it became
    for (const [i, step] of noted.entries()) {
      if (step.what === "truncated") {
        const larger = new Uint8Array(step.bytes);
        larger.set(stored);
        stored = larger;
      } else if (step.what === "written") {
        stored.set(step.bytes, step.at);
        unsynced.push([step.at, step.bytes.length]);
      } else if (step.what === "synced") {
        onDisk = stored.slice();
        unsynced = [];
      } else hasName = true;
      const isNear = noted.length - i < 8; // to the end, where it matters
      if (!isNear && !random.chance(0.2)) continue;
      for (let again = 0; again < (isNear ? 12 : 1); again++) {
        const context = `seed ${seed}, step ${i} of ${noted.length}, ${step.what}`;
        const found = await lookAt(again % 2 === 0 ? cutOff(random, onDisk, stored) : loseOne());
        // Nobody is meant to take the unfinished one; who does must not get half of it.
        assert(found === after || found === undefined && !hasName, context);
        counts[found === undefined ? "refused" : "after"]++;
      }
    }
    file.close();
  });
  assert(counts.refused > 5 && counts.after > 5, JSON.stringify(counts));
});
