import { assert, assertEquals } from "@std/assert";
import { Sample } from "../../lib/client/samples.ts";
import type { Stat } from "../../lib/client/remote.ts";
import { render } from "../../lib/client/top.ts";
import { Random } from "../testing.ts";

function statsOf(values: Readonly<Record<string, number>>): Map<string, Stat> {
  return new Map(
    Object.entries(values).map(([name, value]) => [
      name,
      { value: BigInt(value), kind: "counter" as const },
    ]),
  );
}

Deno.test("Sample sums up a family, and tells by how much it has grown", () => {
  const before = statsOf({ "requests.malloc": 3, "requests.free": 1, sent: 10, "latency.1024": 1 });
  const now = statsOf({ "requests.malloc": 5, "requests.free": 7, sent: 10, "latency.1024": 1 });
  const sample = new Sample(now, before, 2);
  assertEquals(sample.namesOf("requests"), ["requests.malloc", "requests.free"]);
  assertEquals(sample.members("requests").map(([member]) => member), ["malloc", "free"]);
  assertEquals([sample.value("requests"), sample.value("requests.free")], [12, 7]);
  assertEquals([sample.growth("requests"), sample.rate("requests")], [8, 4]);
  assertEquals([sample.rate("sent"), sample.value("request"), sample.latency(0.5)], [
    0,
    0,
    undefined,
  ]);
  const first = new Sample(now, undefined, 0);
  assertEquals([first.growth("requests"), first.rate("requests")], [0, 0]);
});

for (const seed of [1, 2, 3]) {
  Deno.test(`Sample.latency() is in the bucket of the quantile, seed ${seed}`, () => {
    const random = new Random(seed);
    const times = Array.from({ length: 1000 }, () => 2 ** (8 + random.below(2600) / 100));
    const counts: Record<string, number> = {};
    for (let bits = 10; bits <= 30; bits++) counts[`latency.${2 ** bits}`] = 0;
    counts["latency.inf"] = 0;
    const bucketOf = (ns: number) => {
      const bits = Math.max(10, Math.floor(Math.log2(ns)) + 1);
      return bits > 30 ? "latency.inf" : `latency.${2 ** bits}`;
    };
    for (const ns of times) counts[bucketOf(ns)]! += 1;
    const zero = Object.fromEntries(Object.keys(counts).map((name) => [name, 0]));
    const sample = new Sample(statsOf(counts), statsOf(zero), 1);
    times.sort((a, b) => a - b);
    for (const share of [0.001, 0.25, 0.5, 0.9, 0.99, 0.999]) {
      const exact = times[Math.ceil(share * times.length) - 1]!;
      const found = sample.latency(share)!;
      const context = `${share}: ${found} for ${exact}`;
      if (exact >= 2 ** 30) assertEquals(found, 2 ** 30, context);
      else {assert(
          found <= Math.max(2 * exact, 1024) && found >= exact / 2 || exact < 1024,
          context,
        );}
    }
  });
}

Deno.test("render() fits 80 columns and the rows that there are, whatever the figures", () => {
  const methods = ["malloc", "free", "read", "write", "realloc", "cas", "add", "hello", "stats"];
  for (const figure of [0, 1, 9999, 10_000, 999_999, 2 ** 31, 2 ** 44, 2 ** 53]) {
    const names = [
      "uptime",
      "engine.syscall",
      "version.0.1.0",
      "resident",
      ...["received", "receivedBytes", "sent", "sentBytes", "kernelDrops", "replays"],
      ...["dropped.network", "refused.outOfMemory", "heap", "blocks", "bytes", "bytesAsked"],
      "largestFree",
      ...methods.map((method) => `requests.${method}`),
      ...["malloc", "read", "write"].map((method) => `payload.${method}`),
      ...Array.from({ length: 21 }, (_, i) => `latency.${2 ** (10 + i)}`),
      "latency.inf",
      ...Array.from(
        { length: 31 },
        (_, i) => [`liveBlocks.${16 * 2 ** i}`, `freeBlocks.${16 * 2 ** i}`],
      )
        .flat(),
    ];
    const stats = statsOf({
      ...Object.fromEntries(names.map((name) => [name, figure])),
      fragmentation: 999_999,
    });
    const before = statsOf(Object.fromEntries(names.map((name) => [name, 0])));
    for (const rows of [1, 8, 23, 50, Infinity]) {
      const lines = render(new Sample(stats, before, 1), "[2001:db8:0:1:2:3:4:5]:65535", rows);
      for (const line of lines) {
        assert(line.length <= 80 && /^[ -~]*$/.test(line), JSON.stringify(line));
      }
      assert(lines.length <= Math.max(rows, 8), `${lines.length} of ${rows}`);
      const text = lines.join("\n");
      if (rows >= 23) {
        for (const method of methods) assert(text.includes(`\n${method} `), text);
        assert(!/NaN|undefined|Infinity/.test(text), text);
      }
    }
  }
});

Deno.test("render() shows what was counted, as people write it", () => {
  const before = { "requests.read": 100, "payload.read": 0, "latency.1024": 0, "latency.2048": 0 };
  const now = statsOf({
    "requests.read": 25_100,
    "payload.read": 3 * 2 ** 20,
    "latency.1024": 50,
    "latency.2048": 50,
    uptime: 3723,
    "engine.datagram": 0,
    "engine.syscall": 1,
    "version.1.2.3": 1,
    heap: 2 ** 30,
    bytes: 2 ** 28,
    bytesAsked: 200 * 2 ** 20,
    blocks: 12,
    largestFree: 2 ** 29,
    fragmentation: 333_333,
    "liveBlocks.64": 12,
    "freeBlocks.64": 0,
    "liveBlocks.128": 0,
    "freeBlocks.128": 0,
  });
  const lines = render(new Sample(now, statsOf(before), 2), "127.0.0.1:8081", 24);
  assertEquals(lines.slice(0, 3), [
    "mallocd 1.2.3 at 127.0.0.1:8081, syscall engine, up 1:02:03",
    `heap   [${"#".repeat(10)}${".".repeat(30)}] 256 MiB of 1 GiB`,
    "       12 blocks, 200 MiB asked for, largest free 512 MiB, fragmented 33.3%",
  ]);
  const single = render(new Sample(statsOf({ blocks: 1 }), undefined, 0), "127.0.0.1:8081", 24)[2]!;
  assert(single.includes(" 1 block, "), single);
  assertEquals(lines[4], "time   p50 1.02 us, p99 2.03 us, p99.9 2.05 us; resident 0 B");
  assertEquals(lines.slice(7), [
    "METHOD     REQUESTS/S      TOTAL     BYTES/S    BLOCK SIZE       LIVE       FREE",
    "read            12.5k      25.1k   1.5 MiB/s          64 B         12          0",
  ]);
});
