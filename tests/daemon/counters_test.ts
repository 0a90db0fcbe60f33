import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import {
  Counter,
  COUNTERS,
  COUNTERS_LENGTH,
  namedCounts,
  placeOf,
  totals,
} from "../../lib/daemon/counters.ts";
import { ENGINE_NAMES } from "../../lib/daemon/engines/choice.ts";
import { Refusal } from "../../lib/daemon/refusal.ts";
import { METHODS } from "../../lib/protocol/wire.ts";

Deno.test("COUNTERS names every figure once, and each has a place of its own", () => {
  for (const key of ["at", "name"] as const) {
    assertEquals(new Set(COUNTERS.map((figure) => figure[key])).size, COUNTERS.length);
  }
  for (const { name, family, member, at, help, by } of COUNTERS) {
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
      assertEquals(COUNTERS.some(({ at }) => at === placeOf("engine", name)), true);
    }
  }
  assertThrows(() => placeOf("engine", "steam"), Error, "No figure is named engine.steam");
});

Deno.test("totals() leaves out what is 0, the latencies, and gauges that are no sum", () => {
  const counters = new Float64Array(COUNTERS_LENGTH);
  counters[Counter.sent] = 3;
  counters[Counter.latency + 2] = 5;
  counters[Counter.blocks] = 7;
  counters[Counter.uptime] = 9;
  counters[Counter.requests + METHODS.add.opcode] = 11;
  assertEquals(totals(counters), { sent: 3, "requests.add": 11, blocks: 7 });
});
