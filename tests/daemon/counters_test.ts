import { assertEquals } from "@std/assert";
import {
  Counter,
  COUNTERS,
  COUNTERS_LENGTH,
  namedCounts,
  REFUSALS,
  REQUESTS,
} from "../../lib/daemon/counters.ts";
import { Refusal } from "../../lib/daemon/refusal.ts";
import { METHODS } from "../../lib/protocol/wire.ts";

Deno.test("namedCounts() names every count by what is counted at its place", () => {
  const counters = new Float64Array(COUNTERS_LENGTH);
  const expected = new Map<string, number>();
  const count = (name: string, at: number) => {
    counters[at] = expected.size + 1;
    expected.set(name, expected.size + 1);
  };
  for (const [name, at] of Object.entries(Counter)) count(name, at);
  for (const [name, { opcode }] of Object.entries(METHODS)) count(name, REQUESTS + opcode);
  for (const [name, refusal] of Object.entries(Refusal)) {
    if (name !== "none") count(`refused.${name}`, REFUSALS + refusal);
  }
  assertEquals(new Map(namedCounts(counters)), expected);
  assertEquals(COUNTERS.length, expected.size);
});
