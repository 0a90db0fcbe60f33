import { assertEquals } from "@std/assert";
import { Counter, COUNTERS_LENGTH } from "../../lib/daemon/counters.ts";
import { Pulse } from "../../lib/daemon/pulse.ts";

/** What Pulse says after each of some looks, at [turns, busy]. */
function looks(...states: [turns: number, busy: number][]): boolean[] {
  const counters = new Float64Array(COUNTERS_LENGTH);
  const pulse = new Pulse(counters);
  return states.map(([turns, busy]) => {
    counters[Counter.turns] = turns;
    counters[Counter.busy] = busy;
    pulse.look();
    return pulse.isServing;
  });
}

Deno.test("Pulse takes an engine for well that has nothing to do, or gets on", () => {
  assertEquals(looks(...Array(9).fill([5, 0])), Array(9).fill(true));
  assertEquals(
    looks(...Array.from({ length: 9 }, (_, i): [number, number] => [i, 1])),
    Array(9).fill(true),
  );
});

Deno.test("Pulse finds out that a turn does not end, and that it has", () => {
  assertEquals(
    looks([5, 1], [5, 1], [5, 1], [5, 1], [5, 1], [6, 1], [6, 0], [6, 0]),
    [true, true, true, false, false, true, true, true],
  );
});
