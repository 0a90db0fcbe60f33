/** Snapshots of a heap file: what they hold, what becomes of them when something fails, and who starts from one. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Remote, StaleEpochError } from "../../lib/client/remote.ts";
import { CLIENT, done, failed, MALLOCD, Mallocd, run } from "./programs.ts";
import { noMounts, withFolder } from "./heap_files.ts";
import { snapshotUnderLoad } from "./snapshots.ts";
import { connect } from "../remote.ts";

const SIZE = ["--memory", "64MiB"];

for (const args of [[], ["--sparse"]]) {
  const title = ["a snapshot under load", ...args].join(" ");
  Deno.test(`${title} is the heap as it was at one instant`, async () => {
    const plan = { snapshots: 8, seed: 1, args };
    await withFolder((folder) => snapshotUnderLoad(`${folder}/heap`, plan));
  });
}

/** Asks for a snapshot until it is being written, or is over; who calls the result waits for it no more. */
async function beginSnapshot(
  remote: Remote,
  isUnfinished: () => Promise<boolean>,
): Promise<() => Promise<void>> {
  const waiting = new AbortController();
  let isOver = false;
  const asking = remote.snapshot({ signal: waiting.signal }).catch(() => {})
    .finally(() => isOver = true);
  while (!isOver && !await isUnfinished()) await new Promise((resolve) => setTimeout(resolve, 1));
  return async () => {
    waiting.abort();
    await asking;
  };
}

Deno.test("a daemon that starts from a snapshot has what was in it, and tells old pointers apart", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const daemon = await Mallocd.start([...SIZE, "--heap-file", path]);
    const remote = await Remote.connect({ server: daemon.server, timeout: 10_000 });
    const pointer = await remote.malloc(100);
    await remote.write(pointer, Uint8Array.of(1, 2, 3));
    await remote.snapshot();
    await remote.write(pointer, Uint8Array.of(4, 5, 6));
    await daemon.stop("SIGKILL");
    await Deno.rename(`${path}.snapshot`, path);
    await using heir = await Mallocd.start([
      ...[...SIZE, "--heap-file", path, "--port", String(daemon.port)],
    ]);
    await assertRejects(() => remote.read(pointer, 3), StaleEpochError);
    await remote.close();
    await using other = await connect({ server: heir.server });
    assertEquals(await other.read(pointer, 4), Uint8Array.of(1, 2, 3, 0));
  });
});

Deno.test("a daemon that is killed while it makes a snapshot leaves the one before", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const args = ["--memory", "256MiB", "--heap-file", path];
    let daemon = await Mallocd.start(args);
    const { server, port } = daemon;
    await using remote = await Remote.connect({ server, timeout: 20_000 });
    assertEquals(await daemon.client("snapshot"), done());
    const made = async () => (await Deno.stat(`${path}.snapshot`)).ino;
    let before = await made();
    const length = 100 * 1024 * 1024;
    await remote.write(await remote.malloc(length), new Uint8Array(length).fill(1));
    const isUnfinished = () => Deno.stat(`${path}.snapshot.new`).then(() => true, () => false);
    for (let kills = 0; kills < 3;) {
      const giveUp = await beginSnapshot(remote, isUnfinished);
      await daemon.stop("SIGKILL");
      await giveUp();
      if (await isUnfinished()) {
        kills++;
        assertEquals(await made(), before);
      } else before = await made(); // it was quicker
      daemon = await Mallocd.start([...args, "--port", String(port)]);
    }
    const audited = await run(MALLOCD, ["audit", `${path}.snapshot`]);
    assertEquals(audited, done(`${path}.snapshot: a heap of 256MiB, no fault found\n`));
    assertEquals(await daemon.client("snapshot"), done());
    assert(!await isUnfinished());
    await daemon.stop("SIGKILL");
  });
});

Deno.test("a daemon that ends while it makes a snapshot gives it up, and loses nothing", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const args = ["--memory", "256MiB", "--heap-file", path];
    const length = 100 * 1024 * 1024;
    const isUnfinished = () => Deno.stat(`${path}.snapshot.new`).then(() => true, () => false);
    for (let wasGivenUp = false; !wasGivenUp;) {
      const daemon = await Mallocd.start(args);
      await using remote = await Remote.connect({ server: daemon.server, timeout: 20_000 });
      const pointer = await remote.malloc(length);
      await remote.write(pointer, new Uint8Array(length).fill(1));
      const giveUp = await beginSnapshot(remote, isUnfinished);
      await remote.free(pointer);
      const { code, stderr } = await daemon.stop("SIGTERM");
      await giveUp();
      assertEquals(code, 0);
      assert(!await isUnfinished());
      wasGivenUp = /msg="no snapshot" file=\S+ reason="the daemon ends"/.test(stderr);
    }
    const audited = await run(MALLOCD, ["audit", path]);
    assertEquals(audited, done(`${path}: a heap of 256MiB, no fault found\n`));
  });
});

Deno.test("those who ask for a snapshot at the same time get one, of what was before", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const daemon = await Mallocd.start([...SIZE, "--heap-file", path]);
    const outcomes = await Promise.all([1, 2, 3].map(() => daemon.client("snapshot")));
    assertEquals(outcomes, [done(), done(), done()]);
    const { stderr } = await daemon.stop();
    assert(stderr.match(/msg=snapshot/g)!.length <= 3, stderr);
  });
});

Deno.test("--snapshot makes one now and then", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    await using _daemon = await Mallocd.start([...SIZE, "--heap-file", path, "--snapshot", "1"]);
    const inodes = new Set<number | null>();
    while (inodes.size < 2) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      await Deno.stat(`${path}.snapshot`).then(({ ino }) => inodes.add(ino), () => {});
    }
  });
});

Deno.test("a snapshot that cannot be made is refused, the log says why, and the daemon goes on", async () => {
  await using without = await Mallocd.start(SIZE);
  assertEquals(
    await without.client("snapshot"),
    failed("snapshot(): the daemon has no heap file (mallocd --heap-file PATH)"),
  );
  await withFolder(async (folder) => {
    const path = `${folder}/heap`;
    const daemon = await Mallocd.start([...SIZE, "--heap-file", path]);
    await Deno.mkdir(`${path}.snapshot`);
    const refused = async () => {
      const { code, stderr } = await daemon.client("snapshot");
      assertEquals(code, 1);
      assertMatch(
        stderr,
        /^mallocd-client: snapshot\(\d+\): the daemon could not write to its disk/,
      );
    };
    await refused();
    await Deno.remove(`${path}.snapshot`);
    await run("ln", ["-s", "/dev/null", `${path}.snapshot`]);
    await refused();
    await Deno.remove(`${path}.snapshot`);
    await run("ln", ["-s", "/dev/null", `${path}.snapshot.new`]);
    assertEquals(await daemon.client("snapshot"), done());
    assert((await Deno.lstat("/dev/null")).isCharDevice);
    {
      const other = [...SIZE, "--heap-file", `${path}.snapshot`];
      await using _user = await Mallocd.start(other);
      await refused();
    }
    assertEquals(await daemon.client("snapshot"), done());
    const { stderr } = await daemon.stop();
    assertMatch(stderr, /level=error msg="no snapshot" file=\S+ reason="File exists"/);
    assertMatch(stderr, /level=error msg="no snapshot" file=\S+ reason="Device or resource busy"/);
  });
});

Deno.test({
  name: `a snapshot for which the disk has no room is refused, and the one before stays${noMounts}`,
  ignore: noMounts !== "",
  async fn() {
    const client = CLIENT + " --timeout 20s --server 127.0.0.1:$port";
    const script = `mount -t tmpfs -o size=30m none /mnt
      ${MALLOCD} --port 0 --heap-file /mnt/heap --memory 24MiB --sparse 2>/mnt/log &
      until grep -q ready /mnt/log; do sleep 0.05; done
      port=$(sed -n 's/.*address=[0-9.]*:\\([0-9]*\\).*/\\1/p' /mnt/log)
      ${client} snapshot; stat -c %i /mnt/heap.snapshot >/mnt/before
      p=$(${client} malloc 16MiB); head -c 16777216 /dev/urandom | ${client} write $p 16777216
      ${client} snapshot; echo $?
      stat -c %i /mnt/heap.snapshot | cmp - /mnt/before && ls /mnt
      ${client} free $p; echo $?; kill $!; wait $!`;
    const { stdout, stderr } = await run("unshare", ["-rm", "sh", "-c", script]);
    assertEquals(stdout, "1\nbefore\nheap\nheap.snapshot\nlog\n0\n");
    assertMatch(stderr, /snapshot\(\d+\): no space left on the daemon's disk/);
  },
});

/** Mounts a file system that can share blocks, in a namespace of its own, for a script. */
const onXfs = (image: string, script: string) =>
  run("unshare", [
    ...["-m", "sh", "-c"],
    `truncate -s 400M ${image} && mkfs.xfs -q ${image} && mount -o loop ${image} /mnt && ${script}`,
  ], { timeout: 60_000 });

async function whyNoXfs(): Promise<string> {
  let code = 1;
  await withFolder(async (folder) => ({ code } = await onXfs(`${folder}/image`, "umount /mnt")))
    .catch(() => {});
  return code === 0 ? "" : " (skipped: it takes root, a loop device and xfsprogs)";
}

const noXfs = await whyNoXfs();
Deno.test({
  name: `a snapshot --sparse shares its blocks with the heap file where it can${noXfs}`,
  ignore: noXfs !== "",
  async fn() {
    await withFolder(async (folder) => {
      const client = CLIENT + " --timeout 20s --server 127.0.0.1:$port";
      const used = "df -m --output=used /mnt | tail -1";
      const { stdout, stderr } = await onXfs(
        `${folder}/image`,
        `{ ${MALLOCD} --port 0 --heap-file /mnt/heap --memory 128MiB --sparse 2>/mnt/log &
        until grep -q ready /mnt/log; do sleep 0.05; done
        port=$(sed -n 's/.*address=[0-9.]*:\\([0-9]*\\).*/\\1/p' /mnt/log)
        p=$(${client} malloc 64MiB); head -c 67108864 /dev/urandom | ${client} write $p 67108864
        ${client} sync; before=$(${used}); ${client} snapshot; after=$(${used})
        [ $((after - before)) -lt 16 ] && echo shared; printf x | ${client} write $p 1
        kill $!; wait $!; ${MALLOCD} audit /mnt/heap.snapshot; umount /mnt; }`,
      );
      const audited = "/mnt/heap.snapshot: a heap of 128MiB, no fault found";
      assertEquals(stdout, `shared\n${audited}\n`, stderr);
    });
  },
});
