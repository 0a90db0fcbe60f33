/** A heap in a file: what a killed daemon leaves, what the next one finds, and what it refuses. */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { HEAP_BASE } from "../../lib/heap/heap.ts";
import { File } from "../../lib/system/file.ts";
import { HeapFile, HeapFileError, mapHeap } from "../../lib/daemon/heap_file.ts";
import type { StateOptions } from "../../lib/daemon/state.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { fields, Random, word } from "../testing.ts";
import {
  done,
  MALLOCD,
  Mallocd,
  misused,
  run,
  Terminal,
  unstarted,
  whyNoTerminal,
} from "./programs.ts";
import { killUnderLoad } from "./killing.ts";
import {
  flipBits,
  leave,
  malloc,
  noMounts,
  OPTIONS,
  read,
  restartMachine,
  SECTOR,
  SIZE,
  start,
  withFolder,
  write,
} from "./heap_files.ts";

/** Has a file refused, for a reason, and makes sure that it was left alone. */
async function refuse(
  path: string,
  reason: RegExp,
  options: StateOptions = OPTIONS,
): Promise<void> {
  const before = await Deno.readFile(path);
  const open = () => HeapFile.open(path, options, { sparse: true });
  assertMatch(assertThrows(open, HeapFileError).message, reason);
  assertEquals(await Deno.readFile(path), before);
}

for (const how of ["killed", "ended"] as const) {
  Deno.test(`a heap file gives back all that a daemon had when it was ${how}`, async () => {
    await withFolder((folder) => {
      const path = `${folder}/heap`;
      const first = start(path);
      const epoch = first.box.ask(word(9, METHODS.hello.opcode));
      const reply = first.box.ask(malloc(1, 3000));
      first.box.ask(write(HEAP_BASE + 1, "c0ffee"));
      if (how === "ended") first.file.end();
      else first.file.close();
      const { file, box } = start(path);
      assertEquals(box.ask(word(9, METHODS.hello.opcode)), epoch);
      assertEquals(box.ask(malloc(1, 3000)), reply);
      assertEquals(box.ask(read(HEAP_BASE, 5)), "00c0ffee00");
      assertEquals(box.count("blocks"), 1);
      file.end();
    });
  });
}

Deno.test("a heap file is its owner's alone", async () => {
  await withFolder(async (folder) => {
    leave(`${folder}/heap`, "ended");
    assertEquals((await Deno.stat(`${folder}/heap`)).mode! & 0o777, 0o600);
  });
});

Deno.test("HeapFile refuses what it cannot use, and leaves it alone", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const patch = async (name: string, at: number, bytes: Uint8Array) => {
      const copy = `${folder}/${name}`;
      const content = await Deno.readFile(path);
      content.set(bytes, at);
      await Deno.writeFile(copy, content);
      return copy;
    };
    leave(path, "ended");
    await refuse(await patch("other", 0, new TextEncoder().encode("mallocx")), /is no heap file/);
    await refuse(await patch("order", 8, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)), /byte order/);
    await refuse(await patch("version", 16, Uint8Array.of(2)), /version 2 of the format/);
    await refuse(await patch("torn", 41, Uint8Array.of(1)), /its header is torn/);
    await refuse(path, /holds a heap of 1MiB/, { ...OPTIONS, memory: SIZE / 2 });
    await refuse(path, /remembers 16 replies, not 17/, { ...OPTIONS, replayCache: 17 });
    await refuse(path, /does not know whose each block is/, { ...OPTIONS, quota: SIZE });
    const { file } = start(path);
    await refuse(path, new RegExp(`is in use by process ${Deno.pid}$`));
    await Deno.copyFile(path, `${folder}/copy`);
    await refuse(`${folder}/copy`, /it is a copy that was made while a daemon had it in use/);
    file.end();
    await Deno.truncate(path, (await Deno.stat(path)).size - 4096);
    await refuse(path, /it was cut off at/);
    await run("ln", ["-s", path, `${folder}/link`]); // Deno's own wants to write everywhere
    await refuse(`${folder}/link`, /is a symbolic link, not a file/);
    const open = (path: string) => () => HeapFile.open(path, OPTIONS);
    assertMatch(assertThrows(open(folder), HeapFileError).message, /is a directory, not a file/);
    assertMatch(assertThrows(open(`${folder}/no/heap`), HeapFileError).message, /No such file/);
  });
});

Deno.test("HeapFile refuses a file in use after the machine went down", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    leave(path, "killed");
    const bytes = await Deno.readFile(path);
    restartMachine(bytes);
    using file = await Deno.open(path, { write: true });
    await file.write(bytes.subarray(0, SECTOR));
    await refuse(path, /the machine went down while a daemon had it in use/);
  });
});

Deno.test("HeapFile finds every bit that flips in what it knows, or it does not matter", async () => {
  await withFolder((folder) => flipBits(folder, { flips: 200, seed: 3 }));
});

Deno.test("findFault() finds none in what a killed daemon leaves, and every bit that flips in its blocks", async () => {
  await withFolder((folder) => {
    const path = `${folder}/heap`;
    const options = { ...OPTIONS, quota: SIZE };
    leave(path, "killed", options);
    const seed = 4;
    const random = new Random(seed);
    const { file } = start(path, options);
    assertEquals(file.findFault(options), undefined);
    const { buddy, cache, quota } = file.state;
    const arrays = [
      ...[buddy.live, buddy.free, buddy.blocksInUse, buddy.freeBlocks],
      ...[cache.held, cache.oldest, cache.newest, cache.holders, cache.chains, quota.held],
    ];
    for (let flip = 0; flip < 300; flip++) {
      const array = random.pick(arrays);
      const [at, bit] = [random.below(array.length), 1 << random.below(32)];
      array[at]! ^= bit;
      const fault = file.findFault(options);
      array[at]! ^= bit;
      assert(fault !== undefined, `seed ${seed}, flip ${flip}: [${at}] of ${array.length}`);
    }
    assertEquals(file.findFault(options), undefined);
    file.end();
  });
});

Deno.test("HeapFile.audit() names the first fault of a file that was closed, and where it is", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const options = { ...OPTIONS, quota: SIZE };
    const { file, box } = start(path, options);
    for (let i = 0; i < 20; i++) box.ask(malloc(i + 1, 100 * i));
    const { stateAt } = file.place;
    const { buddy, cache, quota, undo, heap } = file.state;
    file.end();
    const closed = await Deno.readFile(path);
    const arrays = { ...buddy, held: cache.held, chains: cache.chains, holds: quota.held };
    const faults: [ArrayBufferView & { BYTES_PER_ELEMENT: number }, number, RegExp][] = [
      [buddy.blocksInUse, 3, /^blocksInUse\[3\] is \d+, and not \d+$/],
      [buddy.free, 0, /^free\[0\] is \d+, and not \d+$/],
      [quota.held, 5, /^an address holds \d+ bytes, and not 0$/],
      [undo.log, 0, /^something is half done, and the file was closed$/],
      [heap.dirty, 200, /^what it knows about the heap has changed since it was closed, somewhere/],
      [arrays.chains, 7, /^chain 7 has a loop|^entry \d+ has another's hash$/],
    ];
    for (const [array, index, what] of faults) {
      const spoiled = closed.slice();
      const at = stateAt + array.byteOffset + index * array.BYTES_PER_ELEMENT;
      spoiled[at]! ^= 0x40;
      await Deno.writeFile(path, spoiled);
      const { fault } = HeapFile.audit(path);
      assertMatch(fault?.replace(/, at byte \d+ of the file$/, "") ?? "", what);
      if (!/somewhere/.test(fault!)) {
        const told = Number(/at byte (\d+) of the file$/.exec(fault!)?.[1]);
        assert(
          told > at - 4096 && told <= at + 8 || /half done|entry/.test(fault!),
          `${fault}: ${at}`,
        );
      }
      assertEquals(await Deno.readFile(path), spoiled);
      await refuse(path, /has changed since it was closed/, options);
    }
  });
});

Deno.test("HeapFile refuses an undo log that nobody has written, and does not crash on it", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    leave(path, "killed");
    const looked = HeapFile.open(path, OPTIONS, { sparse: true });
    const at = looked.place.stateAt + looked.state.undo.log.byteOffset;
    looked.close();
    const killed = await Deno.readFile(path);
    const logs: [number[], RegExp][] = [
      [[-1], /the undo log has -1 notes, at byte \d+ of the file/],
      [[2 ** 30], /the undo log has 1073741824 notes/],
      [[1, 0, 2 ** 30, 0], /note 0 of the undo log is of nothing that there is/],
      [[2, 0, 5, killed[at]!, -1, 2 ** 30], /note 1 of the undo log/],
      [[1, 0, -1, 4], /note 0 of the undo log/],
      [[1, 0, -2, 0], /note 0 of the undo log/],
    ];
    for (const [words, reason] of logs) {
      const spoiled = killed.slice();
      new Int32Array(spoiled.buffer).set(words, at / 4);
      await Deno.writeFile(path, spoiled.subarray(0, 0));
      using content = await Deno.open(path, { write: true }); // the same file, and not a copy
      await content.write(spoiled);
      await refuse(path, reason);
      assertMatch(HeapFile.audit(path).fault ?? "", reason);
    }
  });
});

Deno.test("a heap file grows to a larger --memory, and all in it stays where it is", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const options = { ...OPTIONS, quota: SIZE };
    const first = start(path, options);
    const replies: (string | undefined)[] = [];
    for (let i = 0; i < 30; i++) replies.push(first.box.ask(malloc(i + 1, 1 << i % 15)));
    first.box.ask(write(HEAP_BASE + SIZE - 3, "616263"));
    const hello = first.box.ask(word(99, METHODS.hello.opcode));
    first.file.close();
    await refuse(path, /cannot grow to 4MiB because its daemon was killed/, {
      ...options,
      memory: 4 * SIZE,
    });
    start(path, options).file.end();
    const { file, box } = start(path, { ...options, memory: 4 * SIZE });
    for (let i = 0; i < 16; i++) { // as many as it remembers
      assertEquals(box.ask(malloc(i + 15, 1 << (i + 14) % 15)), replies[i + 14]);
    }
    assertEquals(box.count("blocks"), 30);
    assertEquals(box.count("quotaHolders"), 1);
    assertEquals(box.ask(read(HEAP_BASE + SIZE - 3, 3)), "616263");
    assertEquals(box.ask(read(HEAP_BASE + SIZE, 64)), "00".repeat(64));
    assertEquals(box.ask(word(99, METHODS.hello.opcode))?.slice(0, 56), hello?.slice(0, 56));
    file.end();
    const again = start(path, { ...options, memory: 4 * SIZE });
    const bytes = new Uint8Array(await Deno.readFile(path)).subarray(
      again.file.place.heapAt + SIZE,
    );
    const rest = bytes.subarray(0, 3 * SIZE);
    assert(rest.every((byte) => byte === 0), "the earlier state is in the heap");
    again.file.end();
  });
});

/** Stops the process before its `limit`-th call that changes a file; whether it came to that. */
function isKilled(limit: number, act: () => void): boolean {
  class Killed extends Error {}
  const methods = ["truncate", "reserve", "punch", "write", "sync"] as const;
  const before = methods.map((name) => [name, File.prototype[name]] as const);
  let calls = 0;
  for (const [name, method] of before) {
    Reflect.set(File.prototype, name, function (this: File, ...args: unknown[]) {
      if (calls++ === limit) throw new Killed();
      return Reflect.apply(method, this, args);
    });
  }
  try {
    act();
    return false;
  } catch (error) {
    if (error instanceof Killed) return true;
    throw error;
  } finally {
    for (const [name, method] of before) Reflect.set(File.prototype, name, method);
  }
}

for (const next of [4 * SIZE, 16 * SIZE]) {
  Deno.test(`a heap file whose growing was killed at any step grows to ${next} bytes when it starts again`, async () => {
    await withFolder(async (folder) => {
      const path = `${folder}/heap`;
      const random = new Random(17);
      const options = { ...OPTIONS, quota: SIZE };
      const large = { ...options, memory: 4 * SIZE };
      const first = start(path, options);
      for (let i = 0; i < 30; i++) first.box.ask(malloc(i + 1, 1 << i % 15));
      const data = random.bytes(3000).toHex();
      first.box.ask(write(HEAP_BASE + SIZE - 3000, data));
      first.file.end();
      const original = await Deno.readFile(path);
      const zeros = "00".repeat(32_768);
      let [steps, olds] = [0, 0];
      for (;; steps++) {
        await Deno.writeFile(path, original);
        if (!isKilled(steps, () => HeapFile.open(path, large, { sparse: true }).close())) break;
        const { size } = await Deno.stat(path);
        const isOld = (await Deno.readFile(path)).subarray(0, SECTOR)
          .every((byte, i) => byte === original[i]);
        if (isOld) { // of what is behind its end, any of the stores may have been made
          olds++;
          using content = await Deno.open(path, { write: true });
          await content.seek(original.length, Deno.SeekMode.Start);
          await content.write(random.bytes(size - original.length));
          HeapFile.open(path, options, { sparse: true }).close();
        }
        const { file, box } = start(path, { ...options, memory: next });
        assertEquals(box.count("blocks"), 30);
        assertEquals(box.ask(read(HEAP_BASE + SIZE - 3000, 3000)), data);
        for (let at = SIZE; at < next; at += 32_768) {
          assert(
            box.ask(read(HEAP_BASE + at, 32_768)) === zeros,
            `step ${steps}: not zero at ${at}`,
          );
        }
        file.close();
        const again = HeapFile.open(path, { ...options, memory: next }, { sparse: true });
        assertEquals(again.findFault({ ...options, memory: next }), undefined, `step ${steps}`);
        again.close();
      }
      assert(
        olds >= 3 && steps - olds >= 3,
        `killed ${olds} times before it had grown of ${steps}`,
      );
    });
  });
}

Deno.test("a heap file grows across 4 GiB, and again, from sizes that are no powers of two, too", async () => {
  const GIB = 1024 ** 3;
  await withFolder((folder) => {
    const path = `${folder}/heap`;
    const replies: (string | undefined)[] = [];
    for (const [i, memory] of [3 * GIB, 4 * GIB, 16 * GIB].entries()) {
      const { file, box } = start(path, { ...OPTIONS, memory });
      for (let tag = 1; tag <= i * 4; tag++) {
        assertEquals(box.ask(malloc(tag, 5000 * tag)), replies[tag]);
      }
      for (let tag = i * 4 + 1; tag <= i * 4 + 4; tag++) {
        replies[tag] = box.ask(malloc(tag, 5000 * tag));
      }
      for (let before = 0; before < i; before++) {
        const last = [3, 4][before]! * GIB - 8;
        assertEquals(box.ask(read(HEAP_BASE + last, 16)), `${"5a".repeat(8)}${"00".repeat(8)}`);
      }
      box.ask(write(HEAP_BASE + memory - 8, "5a".repeat(8)));
      assertEquals(box.count("blocks"), 4 * i + 4);
      assertEquals(file.findFault({ ...OPTIONS, memory }), undefined);
      file.end();
    }
  });
});

Deno.test("a heap file of 16 GiB gives back what is beyond 4 GiB, and a write there that was half done", async () => {
  await withFolder((folder) => {
    const options = { ...OPTIONS, memory: 16 * 1024 ** 3 };
    const path = `${folder}/heap`;
    const first = start(path, options);
    const far = HEAP_BASE + 9 * 1024 ** 3;
    first.box.ask(write(far, "0102030405"));
    first.box.ask(malloc(1, 8 * 1024 ** 3));
    const { memory, undo } = mapHeap(first.file.place, first.file.state);
    undo.save(1024 ** 3, 2, 5);
    new Uint8Array(memory.buffer, 9 * 1024 ** 3, 5).fill(9);
    first.file.close();
    const { file, box } = start(path, options);
    assertEquals(box.ask(read(far, 5)), "0102030405");
    assertEquals(box.count("bytes"), 8 * 1024 ** 3);
    file.end();
  });
});

Deno.test("a heap file that cannot grow says why, and stays as it is", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const options = { ...OPTIONS, memory: 24 * 1024 };
    const { file, box } = start(path, options); // 8 KiB, and then 16 KiB
    assertEquals(box.ask(fields(METHODS.malloc.opcode, 16 * 1024)), fields(HEAP_BASE + 8 * 1024));
    file.end();
    const before = await Deno.readFile(path);
    const open = () => HeapFile.open(path, { ...options, memory: 32 * 1024 }, { sparse: true });
    const error = assertThrows(open, HeapFileError);
    assertMatch(error.message, /a block of 16KiB would not begin with a multiple of its size/);
    assertEquals((await Deno.readFile(path)).subarray(0, before.length), before);
    start(path, options).file.end();
  });
});

Deno.test("mallocd says what --heap-file cannot be combined with", async () => {
  const mallocd = (line: string) => run(MALLOCD, line.split(" "));
  assertEquals(
    await mallocd("--heap-file /tmp/x --engine datagram"),
    misused(
      "--heap-file cannot be had with --engine datagram",
      "--engine syscall, or leave it out",
      "mallocd",
    ),
  );
  assertEquals(
    await mallocd("--sparse"),
    misused(
      "--sparse means nothing without --heap-file",
      "add --heap-file PATH, or leave it out",
      "mallocd",
    ),
  );
});

Deno.test("mallocd audit and --verify say what is wrong with a file", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const options = { memory: SIZE, replayCache: 65536 };
    leave(path, "killed", options);
    assertEquals(
      await run(MALLOCD, ["audit", `${folder}/none`]),
      {
        ...misused(
          `${folder}/none cannot be opened: No such file or directory`,
          "a path that this user may read",
          "mallocd",
        ),
        code: 1,
      },
    );
    const audit = () => run(MALLOCD, ["audit", path]);
    assertEquals(await audit(), done(`${path}: a heap of 1MiB, no fault found\n`));
    const { file } = start(path, options);
    file.state.buddy.blocksInUse[3]!++;
    file.close();
    const { code, stderr } = await audit();
    assertEquals(code, 1);
    const [, fault = "", hint = ""] = /^mallocd: (.*)\nTry: (.*)\n$/.exec(stderr) ?? [];
    assertMatch(
      fault,
      /heap is damaged: blocksInUse\[3\] is \d+, and not \d+, at byte \d+ of the file$/,
    );
    const verified = ["--port", "0", "--heap-file", path, "--memory", "1MiB", "--verify"];
    assertEquals(await run(MALLOCD, verified), unstarted(fault, hint));
    assertEquals((await run(MALLOCD, ["audit"])).code, 2);
    assertMatch((await run(MALLOCD, ["audit", `${folder}/none`])).stderr, /No such file/);
  });
});

Deno.test("mallocd tells the second daemon who has the file, and --check leaves no file", async () => {
  await withFolder(async (folder) => {
    const args = ["--heap-file", `${folder}/heap`, "--memory", "1MiB"];
    assertEquals((await run(MALLOCD, ["--port", "0", "--check", ...args])).code, 0);
    assertEquals([...Deno.readDirSync(folder)], []);
    await using daemon = await Mallocd.start(args);
    assertEquals(
      await run(MALLOCD, ["--port", "0", ...args]),
      unstarted(
        `${folder}/heap is in use by process ${daemon.pid}`,
        "stop that daemon first, or take another file",
      ),
    );
  });
});

Deno.test("mallocd --check changes nothing in a file that would grow, and says if it could not", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const args = (memory: string) => ["--port", "0", "--heap-file", path, "--memory", memory];
    const daemon = await Mallocd.start(args("1MiB"));
    await daemon.stop();
    const before = await Deno.readFile(path);
    for (const verify of [[], ["--verify"]]) {
      assertEquals((await run(MALLOCD, ["--check", ...verify, ...args("4MiB")])).code, 0);
      assertEquals(await Deno.readFile(path), before);
    }
    const killed = await Mallocd.start(args("1MiB"));
    await killed.stop("SIGKILL");
    const { code, stderr } = await run(MALLOCD, ["--check", ...args("4MiB")]);
    assertEquals(code, 1);
    assertMatch(stderr, /cannot grow to 4MiB because its daemon was killed/);
  });
});

Deno.test("mallocd-client sync waits for the disk, and says so where there is no file", async () => {
  await withFolder(async (folder) => {
    await using daemon = await Mallocd.start(["--heap-file", `${folder}/heap`, "--memory", "1MiB"]);
    assertEquals(await daemon.client("sync"), done());
    await using other = await Mallocd.start(["--memory", "1MiB"]);
    const { code, stderr } = await other.client("sync");
    assertEquals(code, 1);
    assertMatch(stderr, /the daemon has no heap file \(mallocd --heap-file PATH\)/);
  });
});

Deno.test({
  name: `mallocd audit looks at a file on a file system that is read-only${noMounts}`,
  ignore: noMounts !== "",
  async fn() {
    await withFolder(async (folder) => {
      for (const how of ["ended", "killed"] as const) {
        leave(`${folder}/heap`, how);
        const before = await Deno.readFile(`${folder}/heap`);
        const script = `mount --bind ${folder} /mnt && mount -o remount,bind,ro /mnt && cd /mnt &&
          ! touch heap && ${MALLOCD} audit heap`;
        const { code, stdout, stderr } = await run("unshare", ["-rm", "sh", "-c", script]);
        assertEquals([code, stdout], [0, "heap: a heap of 1MiB, no fault found\n"], stderr);
        assertEquals(await Deno.readFile(`${folder}/heap`), before);
      }
    });
  },
});

Deno.test({
  name: `mallocd refuses a disk that is too small, and leaves nothing on it${noMounts}`,
  ignore: noMounts !== "",
  async fn() {
    const script = `mount -t tmpfs -o size=24m none /mnt
      start() { ${MALLOCD} --port 0 --heap-file /mnt/heap --memory "$@"; echo $? $(ls /mnt); }
      start 64MiB; start 64MiB --check
      ${MALLOCD} --port 0 --heap-file /mnt/heap --memory 4MiB 2>/mnt/log &
      until grep -q msg=ready /mnt/log; do sleep 0.1; done; kill $!; wait $!; rm /mnt/log
      start 64MiB; start 64MiB --check; start 5MiB --check --quiet`;
    const { stdout, stderr } = await run("unshare", ["-rm", "sh", "-c", script]);
    assertEquals(stdout, "1\n1\n1 heap\n1 heap\n0 heap\n", stderr);
    const refused = /cannot be reserved for \/mnt\/heap: No space left on device" try=".*--sparse/g;
    assertEquals(stderr.match(refused)?.length, 4, stderr);
  },
});

Deno.test({
  name: `mallocd says that it needs to know which start of the kernel this is${noMounts}`,
  ignore: noMounts !== "",
  async fn() {
    const script = `mount -t proc -o subset=pid proc /proc &&
      ${MALLOCD} --port 0 --heap-file /dev/shm/mallocd-no-heap; ls /dev/shm/mallocd-no-heap`;
    const { stdout, stderr } = await run("unshare", ["-rmpf", "sh", "-c", script]);
    assertEquals(stdout, "");
    assertMatch(stderr, /a heap file cannot be had without \/proc\/sys\/kernel\/random\/boot_id/);
    assertMatch(stderr, / try="a \/proc that is whole/);
  },
});

Deno.test("a daemon that is killed under load loses nothing, and does nothing twice", async () => {
  await withFolder((folder) => killUnderLoad(`${folder}/heap`, { kills: 5, seed: 1 }));
});

Deno.test("a daemon that is stopped and started under load loses nothing, and does nothing twice", async () => {
  const signal = "SIGTERM";
  await withFolder((folder) => killUnderLoad(`${folder}/heap`, { kills: 3, seed: 2, signal }));
});

const noTerminal = await whyNoTerminal();
for (const signal of ["SIGKILL", "SIGTERM"] as const) {
  Deno.test({
    name:
      `the shell goes on with what it had when its daemon is restarted after ${signal}${noTerminal}`,
    ignore: noTerminal !== "",
    async fn() {
      await withFolder(async (folder) => {
        const args = ["--heap-file", `${folder}/heap`, "--memory", "1MiB", "--strict"];
        let daemon = await Mallocd.start(args);
        const port = String(daemon.port);
        const env = { ...daemon.env, MALLOCD_TIMEOUT: "20s", XDG_STATE_HOME: folder };
        await using shell = new Terminal("mallocd-client shell", env);
        try {
          await shell.type("p = malloc 100\nwrite $p 6 before\nq = add $p+64 1\n");
          await shell.until("q = 0");
          await daemon.stop(signal);
          await shell.type("q = add $p+64 1\n"); // to nobody, until there is one again
          await shell.until("add $p+64 1");
          daemon = await Mallocd.start([...args, "--port", port]);
          await shell.until("q = 1\r\n");
          await shell.type("read $p 6\nq = add $p+64 1\nfree $p\nexit\n");
          await shell.until("q = 2\r\n");
          const { code, shown } = await shell.end();
          assertEquals(code, 0, shown);
          const { totals } = await daemon.stop();
          assertEquals(totals["blocks"], undefined);
        } finally {
          await daemon.stop("SIGKILL");
        }
      });
    },
  });
}
