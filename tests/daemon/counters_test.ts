import { assertEquals } from "@std/assert";
import { Counter, COUNTERS, newCounters, REFUSALS, REQUESTS } from "../../lib/daemon/counters.ts";
import { Refusal } from "../../lib/daemon/refusal.ts";
import { METHODS } from "../../lib/protocol/wire.ts";

Deno.test("COUNTERS names every count at the place where it is found", () => {
  for (const [name, i] of Object.entries(Counter)) assertEquals(COUNTERS[i]!.name, name);
  for (const [name, { opcode }] of Object.entries(METHODS)) {
    assertEquals(COUNTERS[REQUESTS + opcode]!.name, name);
  }
  for (const [name, refusal] of Object.entries(Refusal)) {
    assertEquals(COUNTERS[REFUSALS + refusal]!.name, `refused.${name}`);
  }
  assertEquals(new Set(COUNTERS.map(({ name }) => name)).size, newCounters().length);
});
