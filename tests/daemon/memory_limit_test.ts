import { assertEquals } from "@std/assert";
import { limitFiles, smallestLimit } from "../../lib/daemon/memory_limit.ts";

const V1 = "/sys/fs/cgroup/memory";
const V2 = "/sys/fs/cgroup";
const MEMINFO = "MemTotal:        2097152 kB\nMemFree:          100 kB\n";

/** The limit where these files are all that there is. */
function limitOf(files: Record<string, string>) {
  return smallestLimit((path) => files[path]);
}

Deno.test("limitFiles() names the limits of a cgroup and of all above it", () => {
  assertEquals(limitFiles("0::/a.slice/b.service\n"), [
    `${V2}/a.slice/b.service/memory.max`,
    `${V2}/a.slice/memory.max`,
    `${V2}/memory.max`,
  ]);
  assertEquals(limitFiles("0::/\n"), [`${V2}/memory.max`]);
});

Deno.test("limitFiles() finds the memory controller of version 1, also beside version 2", () => {
  assertEquals(limitFiles("5:devices:/x\n4:cpu,memory:/box\n1:name=systemd:/\n0::/\n"), [
    `${V1}/box/memory.limit_in_bytes`,
    `${V1}/memory.limit_in_bytes`,
    `${V2}/memory.max`,
  ]);
});

Deno.test("limitFiles() finds nothing in what is no list of cgroups", () => {
  for (const text of ["", "\n", "memory", "4:memory", "4:memory:box", "x:memory:/"]) {
    assertEquals(limitFiles(text), [], text);
  }
});

Deno.test("smallestLimit() is the machine's memory where no cgroup has less", () => {
  const machine = { bytes: 2 * 2 ** 30, owner: "machine" as const };
  assertEquals(limitOf({ "/proc/meminfo": MEMINFO }), machine);
  const cgroup = { "/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/a\n" };
  assertEquals(limitOf(cgroup), machine);
  assertEquals(limitOf({ ...cgroup, [`${V2}/a/memory.max`]: "max\n" }), machine);
  // What version 1 says where there is no limit.
  const unlimited = { [`${V1}/memory.limit_in_bytes`]: "9223372036854771712\n" };
  assertEquals(limitOf({ ...unlimited, "/proc/meminfo": MEMINFO }), machine);
});

Deno.test("smallestLimit() is that of the cgroup, or of one above it, that has least", () => {
  const files = { "/proc/meminfo": MEMINFO, "/proc/self/cgroup": "0::/a/b\n" };
  const own = { [`${V2}/a/b/memory.max`]: "1073741824\n" };
  const above = { [`${V2}/a/memory.max`]: "536870912\n" };
  assertEquals(limitOf({ ...files, ...own }), { bytes: 2 ** 30, owner: "cgroup" });
  assertEquals(limitOf({ ...files, ...own, ...above }), { bytes: 2 ** 29, owner: "cgroup" });
});

Deno.test("smallestLimit() is undefined where nothing can be read", () => {
  assertEquals(limitOf({}), undefined);
});
