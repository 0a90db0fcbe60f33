import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  Counter,
  COUNTERS_LENGTH,
  figures,
  namedCounts,
  noteLatency,
  placeOf,
  totals,
} from "../../lib/daemon/counters.ts";
import { ENGINE_NAMES } from "../../lib/daemon/engines/choice.ts";
import { Refusal } from "../../lib/daemon/refusal.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import operations from "../../docs/operations.md" with { type: "text" };

Deno.test("docs/operations.md names every reason for a refusal", () => {
  const reasons = Object.keys(Refusal).filter((name) => name !== "none");
  assertEquals(reasons.filter((name) => !new RegExp(`\\b${name}\\b`).test(operations)), []);
});

Deno.test("figures() names every figure once, and each has a place of its own", () => {
  for (const key of ["at", "name"] as const) {
    assertEquals(new Set(figures().map((figure) => figure[key])).size, figures().length);
  }
  for (const { name, family, member, at, help, by } of figures()) {
    assertMatch(name, /^[a-z][a-zA-Z]*(\.[a-zA-Z0-9.]+)?$/);
    assertEquals(name, member === undefined ? family : `${family}.${member}`);
    assertEquals(member === undefined, by === undefined);
    assertMatch(help, /^[^\n]+$/);
    assertEquals(at >= 0 && at < COUNTERS_LENGTH, true);
  }
});

Deno.test("namedCounts() names every count by what is counted at its place", () => {
  const counters = Float64Array.from({ length: COUNTERS_LENGTH }, (_, i) => i);
  const counts = new Map(namedCounts(counters));
  for (const [name, { opcode }] of Object.entries(METHODS)) {
    assertEquals(counts.get(`requests.${name}`), Counter.requests + opcode);
  }
  for (const [name, refusal] of Object.entries(Refusal)) {
    if (refusal !== 0) assertEquals(counts.get(`refused.${name}`), Counter.refused + refusal);
  }
  assertEquals(counts.get("sent"), Counter.sent);
  assertEquals(counts.get("refused.none"), undefined);
});

Deno.test("placeOf() finds every engine", () => {
  for (const name of ENGINE_NAMES) {
    if (name !== "auto") {
      assertEquals(figures().some(({ at }) => at === placeOf("engine", name)), true);
    }
  }
  assertThrows(() => placeOf("engine", "steam"), Error, "No figure is named engine.steam");
});

Deno.test("totals() leaves out what is 0, the latencies, and gauges that are no sum", () => {
  const counters = new Float64Array(COUNTERS_LENGTH);
  counters[Counter.sent] = 3;
  noteLatency(counters, 5, 2000);
  counters[Counter.blocks] = 7;
  counters[Counter.uptime] = 9;
  counters[Counter.requests + METHODS.add.opcode] = 11;
  assertEquals(totals(counters), { sent: 3, "requests.add": 11, blocks: 7 });
});

Deno.test("noteLatency() counts in the bucket that ends above the time", () => {
  const cases = [
    [0, "1024"],
    [1023, "1024"],
    [1024, "2048"],
    [2047, "2048"],
    [1e6, "1048576"],
    [2 ** 29, "1073741824"],
    [2 ** 30 - 1, "1073741824"],
    [2 ** 30, "inf"],
    [2 ** 31 - 1, "inf"],
  ] as const;
  for (const [ns, bucket] of cases) {
    const counters = new Float64Array(COUNTERS_LENGTH);
    noteLatency(counters, 3, ns);
    noteLatency(counters, 1, ns);
    const counts = namedCounts(counters).filter(([, count]) => count > 0);
    const sum = ns === 0 ? [] : [["latencySum", 4 * ns]];
    assertEquals(counts, [[`latency.${bucket}`, 4], ...sum], `${ns} ns`);
  }
});
