import { assert, assertEquals } from "@std/assert";
import { Counter, COUNTERS_LENGTH, figures } from "../../../lib/daemon/counters.ts";
import dashboard from "../../../docs/grafana.json" with { type: "json" };
import { figuresByFamily, prometheusText } from "../../../lib/daemon/http/metrics.ts";

/** Every figure has a value of its own. */
const counters = Float64Array.from({ length: COUNTERS_LENGTH }, (_, i) => 1000 + i);
const text = prometheusText(counters);
const lines = text.trimEnd().split("\n");
const samples = new Map(
  lines.filter((line) => !line.startsWith("#"))
    .map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.split(" ").at(-1))]),
);

Deno.test("prometheusText() is made of heads and samples of the exposition format, each series once", () => {
  assert(text.endsWith("\n"));
  const names = new Set<string>();
  let family = "";
  for (const line of lines) {
    const head = /^# (HELP|TYPE) ([a-z_]+) (.+)$/.exec(line);
    if (head?.[1] === "HELP") {
      family = head[2]!;
      assert(!names.has(family), line);
      names.add(family);
    } else if (head !== null) {
      assertEquals(head[2], family, line);
      assert(["counter", "gauge", "histogram"].includes(head[3]!), line);
    } else {
      const sample = /^([a-z_]+)(\{[a-z_]+="[^"\\\n]+"\})? (\d+(\.\d+)?(e-\d+)?)$/.exec(line);
      assert(sample?.[1]?.startsWith(family), line);
    }
  }
  assertEquals(samples.size, lines.filter((line) => !line.startsWith("#")).length);
});

Deno.test("prometheusText() uses base units, and says in the name which, and what is a counter", () => {
  const at = (name: keyof typeof Counter) => 1000 + Counter[name];
  assertEquals(samples.get("mallocd_received_total"), at("received"));
  assertEquals(samples.get("mallocd_received_bytes_total"), at("receivedBytes"));
  assertEquals(samples.get("mallocd_uptime_seconds"), at("uptime"));
  assertEquals(samples.get("mallocd_live_bytes"), at("bytes"));
  assertEquals(samples.get("mallocd_asked_bytes"), at("bytesAsked"));
  assertEquals(samples.get("mallocd_fragmentation_ratio"), at("fragmentation") / 1e6);
  assertEquals(samples.get('mallocd_requests_total{method="malloc"}'), at("requests"));
});

Deno.test("prometheusText() has a histogram of times in seconds, whose buckets add up", () => {
  const name = "mallocd_latency_seconds";
  const buckets = [...samples].filter(([series]) => series.startsWith(`${name}_bucket`));
  const members = figures().filter(({ family }) => family === "latency");
  let sum = 0;
  const expected = members.map(({ at }) => sum += counters[at]!);
  assertEquals(buckets.map(([, count]) => count), expected);
  assertEquals(buckets[0]![0], `${name}_bucket{le="0.000001024"}`);
  assertEquals(buckets.at(-1)![0], `${name}_bucket{le="+Inf"}`);
  assertEquals(samples.get(`${name}_count`), sum);
  assertEquals(samples.get(`${name}_sum`), counters[Counter.latencySum]! / 1e9);
});

Deno.test("prometheusText() gives few series to the sizes of blocks, and loses no block", () => {
  for (
    const [family, name] of [["liveBlocks", "mallocd_live_blocks"], [
      "freeBlocks",
      "mallocd_free_blocks",
    ]]
  ) {
    const series = [...samples].filter(([series]) => series.startsWith(`${name}{`));
    assert(series.length <= 8, `${series.length} series`);
    const all = figures().filter((figure) => figure.family === family);
    assertEquals(
      series.reduce((sum, [, count]) => sum + count, 0),
      all.reduce((sum, { at }) => sum + counters[at]!, 0),
    );
    assertEquals(series[0]![0], `${name}{up_to="128"}`);
  }
});

Deno.test("figuresByFamily() has every figure by its name", () => {
  const named = figuresByFamily(counters);
  for (const { family, member, at } of figures()) {
    const value = member === undefined
      ? named[family]
      : (named[family] as Record<string, number>)[member];
    assertEquals(value, counters[at], `${family} ${member}`);
  }
});

Deno.test("docs/grafana.json has panels that do not overlap, each with a number of its own", () => {
  const { panels } = dashboard;
  const taken = new Set<string>();
  for (const { title, gridPos: { x, y, w, h }, targets } of panels) {
    assert(x + w <= 24 && targets.length > 0, title);
    for (let i = 0; i < w * h; i++) {
      const place = `${x + i % w} ${y + Math.floor(i / w)}`;
      assert(!taken.has(place), `${title} at ${place}`);
      taken.add(place);
    }
  }
  const ids = panels.map(({ id }: { id: number }) => id);
  assertEquals(new Set(ids).size, ids.length);
});
