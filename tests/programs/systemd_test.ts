/** The unit under a systemd of the test's own, which is process 1 of a namespace and ends with it. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { readShort } from "../../lib/system/file.ts";
import { CLIENT, DIST, done, MALLOCD, parseLogfmt, ROOT, run } from "./programs.ts";
import { withFolder } from "./heap_files.ts";
import { workDuring } from "./killing.ts";

const MEMORY = "16MiB";
const BOOT_MS = 60_000;

/**
 * usage: FOLDER PORT. Makes a root whose /usr is the host's, and in which nothing but /var/lib is anybody
 * else's: that is FOLDER/state. mallocd is installed there as `make install` does. What systemd does to its
 * control groups stays below one of its own.
 */
const BOOT = `set -eu
root=$1/root
mkdir -p $root $1/state
mount -t tmpfs -o mode=755 none $root
cd $root
mkdir -p cgroup dev etc/default etc/systemd/system home old proc root run sys tmp usr var/lib
mount -t cgroup2 none cgroup
mkdir cgroup/\${1##*/}
echo $$ >cgroup/\${1##*/}/cgroup.procs
umount cgroup
for name in bin sbin lib lib64; do [ ! -e /$name ] || ln -s usr/$name $name; done
mount --bind -o ro /usr usr
mount -t tmpfs -o mode=755 none usr/local
PREFIX=/usr/local DESTDIR=$root
export PREFIX DESTDIR
(cd ${ROOT.pathname} && tools/install.sh install dist)
cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache etc/
echo MALLOCD_PORT=$2 MALLOCD_MEMORY=${MEMORY} MALLOCD_HEAP_FILE=/var/lib/mallocd/heap |
  tr ' ' '\\n' >etc/default/mallocd
echo 00000000000000000000000000000001 >etc/machine-id
printf '[Unit]\\nAllowIsolate=yes\\n' >etc/systemd/system/nothing.target
mount --bind $1/state var/lib
mount -t proc proc proc
mount --bind -o ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 none dev
for name in full null random tty urandom zero; do
  : >dev/$name
  mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 none dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs none dev/shm
mount -t tmpfs -o mode=755 none run
exec unshare --cgroup sh -euc '
mount -t tmpfs none sys/fs/cgroup
mount -t cgroup2 none sys/fs/cgroup
pivot_root . old
umount -l old
export container=other
exec /lib/systemd/systemd --system --unit=nothing.target --log-target=journal'`;

/** usage: NAME. Removes the control groups, when those who were in them have ended. */
const CLEAN_UP = `mount -t cgroup2 none /mnt
for _ in 1 2 3 4 5 6 7 8 9 10; do
  find /mnt/$1 -depth -type d -exec rmdir {} +
  [ -e /mnt/$1 ] || exit 0
  sleep 0.2
done`;

class Systemd implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #folder: string;
  readonly #output: Promise<string>;

  constructor(folder: string, port: number) {
    this.#folder = folder;
    const namespaces = ["--pid", "--fork", "--kill-child=KILL", "--mount", "--uts", "--ipc"];
    this.#child = new Deno.Command("unshare", {
      args: [...namespaces, "sh", "-c", BOOT, "sh", folder, String(port)],
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#output = new Response(this.#child.stderr).text();
  }

  /** Resolves to undefined when it has booted, or else to why it has not. */
  async booted(): Promise<string | undefined> {
    let hasEnded = false;
    const ended = this.#child.status.then(() => hasEnded = true);
    const deadline = Date.now() + BOOT_MS;
    while (!hasEnded && Date.now() < deadline) {
      const { stdout } = await this.run("systemctl", "is-system-running").catch(() => done());
      if (/^(running|degraded)/.test(stdout)) return undefined;
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 100))]);
    }
    return hasEnded ? (await this.#output).trim().split("\n").at(-1) : "it does not get ready";
  }

  /** Runs a command beside it. */
  async run(...command: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const { pid } = this.#child;
    const init = readShort(`/proc/${pid}/task/${pid}/children`).trim();
    const namespaces = ["--mount", "--pid", "--uts", "--ipc", "--cgroup"];
    return await run("nsenter", ["--target", init, ...namespaces, ...command], { timeout: 60_000 });
  }

  async systemctl(...words: string[]): Promise<void> {
    const { code, stderr } = await this.run("systemctl", ...words);
    assertEquals([code, stderr], [0, ""], `${words.join(" ")}: ${await this.journal()}`);
  }

  /** Properties of the unit. */
  async show(): Promise<Record<string, string>> {
    const { stdout } = await this.run("systemctl", "show", "mallocd");
    return Object.fromEntries(
      stdout.trim().split("\n").map((line) => {
        const at = line.indexOf("=");
        return [line.slice(0, at), line.slice(at + 1)];
      }),
    );
  }

  /** What the unit has said. */
  async journal(): Promise<string> {
    return (await this.run("journalctl", "--unit", "mallocd", "--output", "cat")).stdout;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL"); // and with it all that it has started
    await this.#child.status;
    await this.#output;
    const name = this.#folder.split("/").at(-1)!;
    await run("unshare", ["--mount", "sh", "-c", CLEAN_UP, "sh", name]);
  }
}

/** A port that was free a moment ago. */
function freePort(): number {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const { port } = socket.addr as Deno.NetAddr;
  socket.close();
  return port;
}

async function whyNoSystemd(): Promise<string> {
  const isUnprivileged = (await run("id", ["-u"])).stdout.trim() !== "0";
  if (isUnprivileged) return " (skipped: it takes root)";
  if ((await Deno.readTextFile(`${DIST}.engine`)).trim() === "datagram") {
    return " (skipped: no syscall engine)";
  }
  let why: string | undefined;
  await withFolder(async (folder) => {
    await using systemd = new Systemd(folder, freePort());
    why = await systemd.booted();
  }).catch((error) => why = error.message);
  return why === undefined ? "" : ` (skipped: no systemd: ${why})`;
}

const noSystemd = await whyNoSystemd();

Deno.test({
  name: `systemctl restart mallocd under load loses nothing, and does nothing twice${noSystemd}`,
  ignore: noSystemd !== "",
  async fn() {
    await withFolder(async (folder) => {
      const port = freePort();
      const server = `127.0.0.1:${port}`;
      const path = `${folder}/state/private/mallocd/heap`;
      const info = () => run(CLIENT, ["--server", server, "--timeout", "20s", "info"]);
      await using systemd = new Systemd(folder, port);
      assertEquals(await systemd.booted(), undefined);
      await systemd.systemctl("start", "mallocd");
      const before = await info();
      assertMatch(before.stdout, /^epoch: 0x/m);
      const working = workDuring(server, 1, async (isOver) => {
        const until = async (holds: (shown: Record<string, string>) => boolean) => {
          while (!isOver() && !holds(await systemd.show())) {
            await new Promise((resolve) => setTimeout(resolve, 100));
          }
        };
        const pids = new Set<string>();
        for (let i = 0; i < 7 && !isOver(); i++) {
          await new Promise((resolve) => setTimeout(resolve, 300));
          await systemd.systemctl("restart", "mallocd");
          const { ActiveState, SubState, MainPID } = await systemd.show();
          assertEquals([ActiveState, SubState], ["active", "running"]);
          pids.add(MainPID!);
        }
        assertEquals(pids.size, 7);
        const status = `^serving on ${server}, requests/s: [1-9]\\d*, blocks: [1-9]`;
        await until(({ StatusText }) => new RegExp(status).test(StatusText!));
        assertEquals((await systemd.show())["NRestarts"], "0", "the watchdog has killed it");
        await systemd.systemctl("kill", "--signal=KILL", "mallocd");
        await until(({ ActiveState, NRestarts }) => ActiveState === "active" && NRestarts === "1");

        // One that does not get on is killed by the watchdog, which is made less patient here.
        const impatient = `mkdir /etc/systemd/system/mallocd.service.d
          printf '[Service]\\nWatchdogSec=2\\n' >/etc/systemd/system/mallocd.service.d/impatient.conf`;
        assertEquals((await systemd.run("sh", "-euc", impatient)).code, 0);
        await systemd.systemctl("daemon-reload");
        await systemd.systemctl("restart", "mallocd");
        await systemd.systemctl("kill", "--signal=STOP", "mallocd");
        await until(({ ActiveState, NRestarts }) => ActiveState === "active" && NRestarts !== "0");
      });
      const { blocks } = await working.catch(async (error) => {
        throw new Error(await systemd.journal(), { cause: error });
      });
      assertMatch(await systemd.journal(), /Watchdog timeout \(limit 2s\)/);
      assertEquals(await info(), before, "the epoch is another one");
      await systemd.systemctl("stop", "mallocd");
      const { ActiveState, Result, NRestarts } = await systemd.show();
      assertEquals([ActiveState, Result, NRestarts], ["inactive", "success", "0"]);
      const journal = await systemd.journal();
      const stopped = journal.split("\n").findLast((line) => line.includes("msg=stopped"));
      assertEquals(parseLogfmt(stopped ?? "msg=none")["blocks"], String(blocks), journal);
      assert(!/level=(error|warn)/.test(journal), journal);
      assertEquals((await Deno.stat(path)).mode! & 0o777, 0o600);
      const audited = await run(MALLOCD, ["audit", path]);
      assertEquals(audited, done(`${path}: a heap of ${MEMORY}, no fault found\n`));
    });
  },
});
