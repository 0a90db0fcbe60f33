/** clients/nbdkit, a disk in the heap: by the tools of libnbd, QEMU and e2fsprogs, and mounted by the kernel. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { equals } from "@std/bytes";
import { Mallocd, type Outcome, ROOT, run } from "../programs/programs.ts";
import { Random } from "../testing.ts";

const FOLDER = new URL("clients/nbdkit/", ROOT).pathname;
const PLUGIN = `${FOLDER}build/nbdkit-mallocd-plugin.so`;
const CHUNK = 65536;
const MIB = 1024 ** 2;
const SECONDS = 1000;

/** Empty, or what is missing, for the names of tests. */
async function whyNo(...programs: string[]): Promise<string> {
  for (const program of programs) {
    try {
      await run("sh", ["-c", `command -v ${program}`]).then(({ code }) => {
        if (code !== 0) throw new Error("not found");
      });
    } catch {
      return ` (no ${program})`;
    }
  }
  return "";
}

async function whyNoPlugin(): Promise<string> {
  const missing = await whyNo("cc", "nbdkit", "nbdinfo", "nbdcopy");
  if (missing !== "") return missing;
  const header = await run("sh", [
    "-c",
    "echo '#include <nbdkit-plugin.h>' | cc -E -xc - >/dev/null",
  ]);
  if (header.code !== 0) return " (no nbdkit-plugin.h)";
  const { code, stderr } = await run("make", ["-s", "-C", FOLDER]);
  assertEquals({ code, stderr }, { code: 0, stderr: "" }); // no warning either
  return "";
}

/** Runs a program that has to succeed; its standard output. */
async function sh(command: string): Promise<string> {
  const { code, stdout, stderr } = await run("sh", ["-c", command], { timeout: 120 * SECONDS });
  if (code !== 0) throw new Error(`${command}: exit ${code}: ${stderr}${stdout}`);
  return stdout;
}

/** An nbdkit that serves a disk on a Unix socket. */
class Disk implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #folder: string;
  #stderr = "";
  #ended = false;
  readonly #done: Promise<void>;

  private constructor(folder: string, args: readonly string[]) {
    this.#folder = folder;
    this.#child = new Deno.Command("nbdkit", {
      args: ["--foreground", "--exit-with-parent", "--unix", this.socket, PLUGIN, ...args],
      stderr: "piped",
    }).spawn();
    this.#done = this.#listen();
  }

  /** Resolves when it serves, or has ended. */
  static async start(daemon: Mallocd, ...args: string[]): Promise<Disk> {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-disk-" });
    const disk = new Disk(folder, [`server=${daemon.server}`, ...args]);
    while (!disk.#ended) {
      const { code } = await run("nbdinfo", ["--size", disk.uri]);
      if (code === 0) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return disk;
  }

  async #listen(): Promise<void> {
    for await (const text of this.#child.stderr.pipeThrough(new TextDecoderStream())) {
      this.#stderr += text;
    }
    await this.#child.status;
    this.#ended = true;
  }

  get socket(): string {
    return `${this.#folder}/socket`;
  }

  get uri(): string {
    return `nbd+unix:///?socket=${this.socket}`;
  }

  get folder(): string {
    return this.#folder;
  }

  get stderr(): string {
    return this.#stderr;
  }

  /** `root=ADDRESS`, as it is printed, and as another nbdkit takes it. */
  get root(): string {
    return /root=0x[0-9a-f]+/.exec(this.#stderr)?.[0] ?? "";
  }

  /** Commands of qemu-io, run in order by one process; what it says. */
  async qemu(...commands: string[]): Promise<Outcome> {
    const args = commands.flatMap((command) => ["-c", command]);
    const options = ["--format", "raw", "--discard", "unmap", this.uri];
    return await run("qemu-io", [...args, ...options], { timeout: 60 * SECONDS });
  }

  async write(data: Uint8Array): Promise<void> {
    const file = `${this.#folder}/data`;
    await Deno.writeFile(file, data);
    await sh(`nbdcopy ${file} '${this.uri}'`);
  }

  async read(): Promise<Uint8Array<ArrayBuffer>> {
    const file = `${this.#folder}/copy`;
    await sh(`nbdcopy '${this.uri}' ${file}`);
    return await Deno.readFile(file);
  }

  /** Bytes that are allocated. */
  async allocated(): Promise<number> {
    const map = await sh(`nbdinfo --map --json '${this.uri}'`);
    return (JSON.parse(map) as { length: number; type: number }[])
      .reduce((sum, { length, type }) => sum + (type === 0 ? length : 0), 0);
  }

  async stop(signal: Deno.Signal = "SIGTERM"): Promise<string> {
    if (!this.#ended) this.#child.kill(signal);
    await this.#done;
    return this.#stderr;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop("SIGKILL");
    await Deno.remove(this.#folder, { recursive: true });
  }
}

const missing = await whyNoPlugin();

function test(name: string, fn: () => Promise<void>, reason = ""): void {
  const why = missing || reason;
  Deno.test({ name: `clients/nbdkit ${name}${why}`, ignore: why !== "", fn });
}

const noQemu = await whyNo("qemu-io", "qemu-img");

test("tells nbdinfo what it can do, and that a new disk is one hole", async () => {
  await using daemon = await Mallocd.start(["--memory", "16MiB"]);
  await using disk = await Disk.start(daemon, "size=1G");
  const info = JSON.parse(await sh(`nbdinfo --json '${disk.uri}'`)).exports[0];
  assertEquals(info["export-size"], 1024 * MIB);
  for (const can of ["flush", "fua", "multi_conn", "trim", "zero", "fast_zero"]) {
    assertEquals(info[`can_${can}`], true, can);
  }
  assertEquals(await disk.allocated(), 0);
});

test("gives back what was copied in, also when it was attached again", async () => {
  await using daemon = await Mallocd.start(["--memory", "64MiB"]);
  const data = new Random(1).bytes(20 * MIB + 512);
  let root: string;
  {
    await using disk = await Disk.start(daemon, `size=${data.length}`);
    await disk.write(data);
    assert(equals(await disk.read(), data));
    root = disk.root;
    assertMatch(await disk.stop(), /^mallocd: root=0xc4[0-9a-f]+\n$/);
  }
  {
    await using disk = await Disk.start(daemon, root); // at once: the lease was given back
    assert(equals(await disk.read(), data), "after it was stopped");
    await disk.write(data.toReversed());
    await disk.stop("SIGKILL");
  }
  await using disk = await Disk.start(daemon, root); // when the lease has stood still
  assert(equals(await disk.read(), data.toReversed()), "after it was killed");
});

const [address] = (await run("hostname", ["-I"]).catch(() => ({ stdout: "" }))).stdout.split(" ")
  .filter((word) => /^\d+(\.\d+){3}$/.test(word));

test("keeps to datagrams that a network carries, off loopback", async () => {
  await using daemon = await Mallocd.start([
    ...["--memory", "64MiB", "--host", address!, "--allow", `${address}/32`],
  ]);
  const data = new Random(5).bytes(9 * MIB + 512); // more than one step
  await using disk = await Disk.start(daemon, `size=${data.length}`);
  await disk.write(data);
  assert(equals(await disk.read(), data));
}, address === undefined ? " (no address beside loopback)" : "");

test("refuses a second writer, and roots that are none", async () => {
  await using daemon = await Mallocd.start(["--memory", "16MiB"]);
  await using first = await Disk.start(daemon, "size=1M");
  await using second = await Disk.start(daemon, first.root);
  assertStringIncludes(await second.stop(), "has another writer: stop that one first");
  for (const root of ["root=0xc420800000", "root=1", "root=8"]) {
    await using none = await Disk.start(daemon, root);
    assertMatch(await none.stop(), /no disk at 0x|no address of a disk|Bad address/, root);
  }
  await using other = await Disk.start(daemon, first.root, "size=2M");
  assertStringIncludes(await other.stop(), "has 1048576 bytes: leave out size=");
  await first.write(new Random(2).bytes(MIB)); // the first one goes on
});

test("outlives the daemon with a heap file: nbdkit goes on, and another attaches it again", async () => {
  const folder = await Deno.makeTempDir({ prefix: "mallocd-disk-" });
  const args = ["--memory", "32MiB", "--heap-file", `${folder}/heap`];
  try {
    const data = new Random(6).bytes(9 * MIB + 512);
    const first = await Mallocd.start(args);
    const port = ["--port", String(first.port)];
    await using disk = await Disk.start(first, `size=${data.length}`);
    await disk.write(data);
    await first.stop();
    const second = await Mallocd.start([...args, ...port]);
    assert(equals(await disk.read(), data), "nbdkit goes on, with what it knows");
    await disk.write(data.toReversed());
    await disk.stop("SIGKILL");
    await second.stop("SIGKILL");
    await using third = await Mallocd.start([...args, ...port]);
    await using again = await Disk.start(third, disk.root);
    assert(equals(await again.read(), data.toReversed()), "both were killed");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

test("fails everything once the daemon was restarted without its heap", async () => {
  const daemon = await Mallocd.start(["--memory", "16MiB"]);
  const { port } = daemon;
  await using disk = await Disk.start(daemon, "size=1M");
  await disk.write(new Random(3).bytes(MIB));
  await daemon.stop();
  await using _again = await Mallocd.start(["--memory", "16MiB", "--port", String(port)]);
  while (!disk.stderr.includes("nothing more is written")) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const { code, stderr } = await run("nbdcopy", [disk.uri, "null:"]);
  assert(code !== 0);
  assertMatch(stderr, /Input\/output error/);
});

test("takes memory when it is written and gives it back when it is discarded", async () => {
  await using daemon = await Mallocd.start(["--memory", "64MiB"]);
  await using disk = await Disk.start(daemon, "size=1G");
  await disk.qemu("write -P 7 1M 4M", "write -P 9 100M 512");
  assertEquals(await disk.allocated(), 4 * MIB + CHUNK);
  await disk.qemu("discard 2M 2M");
  assertEquals(await disk.allocated(), 2 * MIB + CHUNK);
  await disk.qemu("discard 100M 512"); // less than a chunk: it stays
  assertEquals(await disk.allocated(), 2 * MIB + CHUNK);
  const zeros = await disk.qemu("read -P 7 1M 1M", "read -P 0 2M 2M", "write -z -u 0 1G");
  assertEquals(zeros.code, 0, zeros.stdout);
  assertEquals(await disk.allocated(), 0);
  const totals = (await daemon.stop()).totals;
  assertEquals(totals["blocks"], "1"); // the table
}, noQemu);

test("answers ENOSPC when the heap is full, and goes on with what there is", async () => {
  await using daemon = await Mallocd.start(["--memory", "4MiB"]);
  await using disk = await Disk.start(daemon, "size=64M");
  const full = await disk.qemu("write -P 1 0 1M", "write -P 2 1M 8M", "read -P 1 0 1M");
  assertStringIncludes(full.stdout + full.stderr, "write failed: No space left on device");
  assertEquals(await disk.allocated(), MIB); // what could be allocated of the 8 MiB was freed
  const after = await disk.qemu(
    "discard 0 1M",
    "write -P 3 9M 2M",
    "read -P 3 9M 2M",
    "read -P 0 0 1M",
  );
  assertEquals([after.code, /failed/.test(after.stdout + after.stderr)], [0, false]);
}, noQemu);

test("does what a model does when reads, writes, zeros and discards come at random", async () => {
  await using daemon = await Mallocd.start(["--memory", "64MiB"]);
  const size = 3 * MIB + 4096;
  for (const seed of [1, 2, 3]) {
    const random = new Random(seed);
    const model = new Uint8Array(size);
    await using disk = await Disk.start(daemon, `size=${size}`);
    for (let round = 0; round < 4; round++) {
      const commands: string[] = [];
      for (let i = 0; i < 60; i++) {
        const length = 512 * (1 + random.below(random.chance(0.5) ? 16 : 1024));
        const at = 512 * random.below((size - length) / 512 + 1);
        const what = random.below(10), value = 1 + random.below(255);
        if (what < 6) {
          commands.push(`write -P ${value} ${at} ${length}`);
          model.fill(value, at, at + length);
        } else if (what < 8) {
          commands.push(`write -z ${random.chance(0.5) ? "-u " : ""}${at} ${length}`);
          model.fill(0, at, at + length);
        } else {
          commands.push(`discard ${at} ${length}`);
          const first = Math.ceil(at / CHUNK) * CHUNK;
          const last = Math.floor((at + length) / CHUNK) * CHUNK;
          if (last > first) model.fill(0, first, last);
        }
      }
      const { code, stdout, stderr } = await disk.qemu(...commands);
      assertEquals([code, stderr], [0, ""], stdout);
      assert(equals(await disk.read(), model), `seed ${seed}, round ${round}`);
    }
  }
}, noQemu);

test("keeps what parallel writers write into the same chunks", async () => {
  await using daemon = await Mallocd.start(["--memory", "64MiB"]);
  await using disk = await Disk.start(daemon, "size=8M");
  const commands: string[] = [];
  for (let i = 0; i < 512; i++) commands.push(`aio_write -q -P ${1 + i % 255} ${i * 4096} 4096`);
  commands.push("aio_flush");
  const written = await disk.qemu(...commands);
  assertEquals([written.code, written.stderr], [0, ""]);
  const data = await disk.read();
  for (let i = 0; i < 512; i++) {
    const block = data.subarray(i * 4096, (i + 1) * 4096);
    assert(block.every((byte) => byte === 1 + i % 255), `block ${i}`);
  }
  assertEquals(await disk.allocated(), 2 * MIB); // each chunk was allocated once
  await disk.stop();
  assertEquals((await daemon.stop()).totals["blocks"], "33");
}, noQemu);

/** Datagrams that the daemon's socket had no room for. */
async function drops({ port }: Mallocd): Promise<number> {
  const own = `:${port.toString(16).toUpperCase().padStart(4, "0")} `;
  const lines = (await sh("cat /proc/net/udp")).split("\n");
  return Number(lines.find((line) => line.includes(own))?.trim().split(/\s+/).at(-1));
}

test("sends no more at a time than the daemon has room for", async () => {
  await using daemon = await Mallocd.start(["--memory", "256MiB"]);
  await using disk = await Disk.start(daemon, "size=128M");
  const file = `${disk.folder}/zeros`;
  await Deno.writeFile(file, new Uint8Array(128 * MIB).fill(1));
  // 4 connections with 64 requests under way on each, 1 MiB long.
  await sh(`nbdcopy --connections=4 --requests=64 --request-size=1048576 ${file} '${disk.uri}'`);
  // Who may not have the receive buffer that was asked for has to send some datagrams again.
  if (daemon.ready["receive_buffer"] === "4MiB") assertEquals(await drops(daemon), 0);
  assert(equals(await disk.read(), await Deno.readFile(file)));
});

test("holds an image that qemu-img makes, checks and compares", async () => {
  await using daemon = await Mallocd.start(["--memory", "128MiB"]);
  await using disk = await Disk.start(daemon, "size=64M");
  const file = `${disk.folder}/image`;
  await Deno.writeFile(file, new Random(4).bytes(16 * MIB));
  await sh(`qemu-img convert -f raw -O qcow2 ${file} ${file}.qcow2`);
  await sh(`nbdcopy ${file}.qcow2 '${disk.uri}'`);
  assertMatch(await sh(`qemu-img check -f qcow2 '${disk.uri}'`), /No errors were found/);
  await sh(`qemu-img compare -f raw -F qcow2 ${file} '${disk.uri}'`);
}, noQemu);

/* --- File systems --------------------------------------------------------------------------------------- */

const noFuse = await whyNo("nbdfuse", "mkfs.ext4", "debugfs", "e2fsck") || await whyNoFuse();

async function whyNoFuse(): Promise<string> {
  const { code } = await run("sh", ["-c", "exec 3<>/dev/fuse"]);
  return code === 0 ? "" : " (no /dev/fuse)";
}

/** The disk as a file, as long as it is needed. */
class DiskFile implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly path: string;

  private constructor(disk: Disk) {
    this.path = `${disk.folder}/disk`;
    Deno.writeFileSync(this.path, new Uint8Array());
    const args = [this.path, disk.uri];
    this.#child = new Deno.Command("nbdfuse", { args }).spawn();
  }

  static async mount(disk: Disk): Promise<DiskFile> {
    const file = new DiskFile(disk);
    while ((await Deno.stat(file.path)).size === 0) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    return file;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await sh(`fusermount3 -u ${this.path}`);
    await this.#child.status;
  }
}

test("carries an ext4 of mkfs.ext4, in which debugfs keeps a file", async () => {
  await using daemon = await Mallocd.start(["--memory", "64MiB"]);
  await using disk = await Disk.start(daemon, "size=1G");
  const data = new Random(5).bytes(3 * MIB + 77);
  await Deno.writeFile(`${disk.folder}/in`, data);
  {
    await using file = await DiskFile.mount(disk);
    await sh(`mkfs.ext4 -q -F ${file.path}`);
    await sh(`debugfs -w -R 'write ${disk.folder}/in file' ${file.path}`);
    await sh(`debugfs -R 'dump file ${disk.folder}/out' ${file.path}`);
    await sh(`e2fsck -fn ${file.path}`);
  }
  assert(equals(await Deno.readFile(`${disk.folder}/out`), data));
  assert(await disk.allocated() < 48 * MIB, "it is thin");
}, noFuse);

/** Whether loop devices can be had, and mounted. */
async function whyNoLoop(): Promise<string> {
  if (noFuse !== "") return noFuse;
  const { code, stderr } = await run("losetup", ["--find"]);
  if (code !== 0) return ` (no loop device: ${stderr.trim()})`;
  const { code: mounts } = await run("unshare", [
    "--mount",
    "mount",
    "-t",
    "tmpfs",
    "none",
    "/mnt",
  ]);
  return mounts === 0 ? "" : " (may not mount)";
}

const noLoop = await whyNoLoop();

test(
  "is mounted by the kernel: a tree is the same, a discard frees, e2fsck is content",
  async () => {
    await using daemon = await Mallocd.start(["--memory", "512MiB"]);
    await using disk = await Disk.start(daemon, "size=1G");
    await using file = await DiskFile.mount(disk);
    await sh(`mkfs.ext4 -q -F ${file.path}`);
    const before = await disk.allocated();
    const device = (await sh(`losetup --find --show --direct-io=on ${file.path}`)).trim();
    try {
      // The mount is seen by this process only, and ends with it.
      await sh(`unshare --mount sh -euc '
      mount -o discard ${device} /mnt
      mkdir /mnt/tree
      cp -a ${new URL("docs", ROOT).pathname} ${
        new URL("lib", ROOT).pathname
      } /usr/include /mnt/tree
      sync
      echo 3 >/proc/sys/vm/drop_caches || true
      diff -r --no-dereference ${new URL("lib", ROOT).pathname} /mnt/tree/lib
      diff -r --no-dereference /usr/include /mnt/tree/include
      umount /mnt'`);
      const full = await disk.allocated();
      assert(full > before + 8 * MIB, `${full} bytes with the tree`);
      await sh(`e2fsck -fn ${device}`);
      await sh(`unshare --mount sh -euc '
      mount -o discard ${device} /mnt
      rm -r /mnt/tree
      sync
      fstrim /mnt || true
      umount /mnt'`);
      await sh(`e2fsck -fn ${device}`);
      assert(await disk.allocated() < full - 4 * MIB, "what was removed is free");
    } finally {
      await sh(`losetup --detach ${device}`);
    }
  },
  noLoop,
);

/** Whether a memory cgroup can be made, and its folder. */
async function findCgroup(): Promise<{ folder: string; limit: string; why: string }> {
  if (noLoop !== "" || await whyNo("swapon", "python3") !== "") {
    return { folder: "", limit: "", why: noLoop || await whyNo("swapon", "python3") };
  }
  for (
    const [parent, limit] of [
      ["/sys/fs/cgroup/memory", "memory.limit_in_bytes"],
      ["/sys/fs/cgroup", "memory.max"],
    ] as const
  ) {
    const folder = `${parent}/mallocd-test-${Deno.pid}`;
    const { code } = await run("sh", ["-c", `mkdir ${folder} && test -w ${folder}/${limit}`]);
    if (code === 0) return { folder, limit, why: "" };
    await run("rmdir", [folder]);
  }
  return { folder: "", limit: "", why: " (no cgroup for memory)" };
}

const { folder: cgroup, limit, why: noSwap } = await findCgroup();

test("is swapped to by a program in a cgroup that is too small for it", async () => {
  try {
    await using daemon = await Mallocd.start(["--memory", "512MiB"]);
    await using disk = await Disk.start(daemon, "size=256M");
    await using file = await DiskFile.mount(disk);
    const device = (await sh(`losetup --find --show --direct-io=on ${file.path}`)).trim();
    try {
      await sh(`mkswap ${device}`);
      await sh(`swapon ${device}`);
      try {
        // 128 MiB of numbers, written and read again with 32 MiB of memory.
        await sh(`echo ${32 * MIB} >${cgroup}/${limit}`);
        const program = `import array
a = array.array("Q", range(16 * 1024 * 1024))
print(sum(a) == len(a) * (len(a) - 1) // 2, all(a[i] == i for i in range(0, len(a), 512)))`;
        const said = await sh(`echo $$ >${cgroup}/cgroup.procs; exec python3 -c '${program}'`);
        assertEquals(said, "True True\n");
        assert(
          await disk.allocated() > 64 * MIB,
          `${await disk.allocated()} bytes were swapped out`,
        );
      } finally {
        await sh(`swapoff ${device}`);
      }
    } finally {
      await sh(`losetup --detach ${device}`);
    }
  } finally {
    await sh(`rmdir ${cgroup}`);
  }
}, noSwap);
