/** A heap file on a disk that is slow, or that fails: nbdkit's, which does either when it is told to. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { CLIENT, MALLOCD, parseLogfmt, run } from "./programs.ts";

/**
 * Mounts a disk of 48 MiB at /mnt/fs, in a namespace of the script's own. It writes as many bits a second as
 * /mnt/rate says, if that is there, and none while /mnt/broken is. `start` starts a daemon that writes nothing
 * to it by itself, \`fill\` stores 6 MiB in it, and \`log\` waits until it has said something.
 */
const DISK = `set -u
mount -t tmpfs none /mnt
mkdir /mnt/nbd /mnt/fs
: >/mnt/nbd/disk
nbdfuse /mnt/nbd/disk --command nbdkit -s --exit-with-parent --filter=error --filter=rate memory 48M \\
  rate-file=/mnt/rate error-pwrite=EIO error-pwrite-rate=100% error-file=/mnt/broken 2>/dev/null &
disk=$!
wait_for() {
  for _ in $(seq 200); do
    eval "$1" && return
    kill -0 $disk || break
    sleep 0.1
  done
  echo "never: $1"
  exit 1
}
wait_for '[ "$(stat -c %s /mnt/nbd/disk)" -gt 0 ]'
mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0,nodiscard /mnt/nbd/disk
mount -o loop /mnt/nbd/disk /mnt/fs
log() { wait_for "grep -q $1 /mnt/log"; }
start() {
  : >/mnt/log
  ${MALLOCD} --port 0 --heap-file /mnt/fs/heap --memory 16MiB --sync 0 2>/mnt/log &
  daemon=$!
  log ready
  client="${CLIENT} --timeout 20s --server $(sed -n 's/.*address=\\([0-9.:]*\\).*/\\1/p' /mnt/log)"
}
fill() { head -c 6291456 /dev/urandom | $client write $($client malloc 6MiB) 6291456; }
finish() { umount /mnt/fs; kill $disk; wait $disk; }
`;

const onDisk = (script: string) =>
  run("unshare", ["--mount", "sh", "-c", `${DISK}\n${script}\nfinish`], { timeout: 60_000 });

async function whyNoDisk(): Promise<string> {
  const { stdout } = await onDisk("grep -q /mnt/fs /proc/mounts && echo mounted")
    .catch(() => ({ stdout: "" }));
  return stdout.includes("mounted")
    ? ""
    : " (skipped: it takes root, a loop device, nbdkit, libnbd-bin and e2fsprogs)";
}

const noDisk = await whyNoDisk();

/** The lines of a log. */
const linesOf = (text: string) =>
  text.split("\n").filter((line) => line.startsWith("level=")).map(parseLogfmt);

Deno.test({
  name: `mallocd says how long it needs to end, and a second signal ends it at once${noDisk}`,
  ignore: noDisk !== "",
  async fn() {
    const { stdout, stderr } = await onDisk(`
start; fill; echo 4M >/mnt/rate
kill $daemon; log syncing; kill $daemon; wait $daemon; echo $?; cat /mnt/log
rm /mnt/rate; start; $client stat blocks
fill; echo 16M >/mnt/rate
kill $daemon; wait $daemon; echo $?; rm /mnt/rate; cat /mnt/log; ${MALLOCD} audit /mnt/fs/heap`);
    const lines = linesOf(stdout);
    assertEquals(
      lines.map(({ msg }) => msg).filter((msg, i, all) => msg !== all[i - 1]),
      ["ready", "syncing", "stopped", "ready", "syncing", "stopped"],
      stdout + stderr,
    );
    for (const line of lines.filter(({ msg }) => msg === "syncing")) {
      assertEquals([line["level"], line["file"]], ["info", "/mnt/fs/heap"]);
      assertMatch(line["left"] ?? "", /^([0-9]|1[0-9])MiB$|^0$/); // left out where the kernel does not tell
      assert(line["seconds"] === undefined || Number(line["seconds"]) >= 1);
    }
    assertEquals(stdout.split("\n").filter((line) => /^\d+$/.test(line)), ["0", "0"]);
    assertMatch(stdout, /^blocks[: ]+1$/m);
    assertMatch(stdout, /^\/mnt\/fs\/heap: a heap of 16MiB, no fault found$/m);
  },
});

Deno.test({
  name: `what could not be brought to the disk is never said to be there${noDisk}`,
  ignore: noDisk !== "",
  async fn() {
    const { stdout, stderr } = await onDisk(`
start; $client sync; echo sync $?; : >/mnt/broken
fill; $client sync; echo sync $?; rm /mnt/broken
$client sync; echo sync $?; $client stat blocks
kill $daemon; wait $daemon; echo ended $?; cat /mnt/log
od -A n -t d8 -j 24 -N 8 /mnt/fs/heap`);
    // The kernel would tell of the second sync that it has worked: what it could not write is forgotten.
    assertMatch(stdout, /^sync 0\nsync 1\nsync 1\nblocks[: ]+1\nended 1$/m, stdout + stderr);
    assertMatch(
      stderr,
      /sync\(\d+\): the daemon could not write to its disk, and its log says why/,
    );
    const said = linesOf(stdout).map(({ level, msg, file }) => [level, msg, file]);
    assertEquals(said.slice(1), [
      ["error", "not synced", "/mnt/fs/heap"],
      ["error", "not synced", "/mnt/fs/heap"],
      ["info", "stopped", undefined],
    ]);
    assertMatch(stdout, /^ +1$/m); // it is in use, and not clean
  },
});

Deno.test({
  name: `mallocd says so when it cannot note that it begins or ends with a file${noDisk}`,
  ignore: noDisk !== "",
  async fn() {
    const { stdout, stderr } = await onDisk(`
start; : >/mnt/broken; kill $daemon; wait $daemon; echo $?; grep -c '"not synced"' /mnt/log
${MALLOCD} --port 0 --heap-file /mnt/fs/heap --memory 16MiB; echo $?; rm /mnt/broken`);
    assertEquals(stdout, "1\n1\n1\n", stderr);
    assertMatch(
      stderr,
      /msg=failed reason="\/mnt\/fs\/heap cannot be written: Input\/output error"/,
    );
  },
});
