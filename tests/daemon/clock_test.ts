import { assertEquals } from "@std/assert";
import { ServingTime, TICK_MS } from "../../lib/daemon/clock.ts";
import { Box, fields, head, word } from "../testing.ts";
import { HEAP_BASE } from "../../lib/heap/heap.ts";

Deno.test("ServingTime counts whole seconds, however the ticks are late", () => {
  const start = 12_345.6;
  const time = new ServingTime(start);
  let now = start;
  for (let tick = 1; tick <= 1000; tick++) {
    now += TICK_MS + 7 * (tick % 3);
    assertEquals(time.seconds(now), Math.floor((now - start) / 1000 + 1e-9), `tick ${tick}`);
  }
});

Deno.test("ServingTime stands still while the daemon is stopped", () => {
  const time = new ServingTime(0);
  assertEquals(time.seconds(1000), 1);
  assertEquals(time.seconds(3_600_000), 3);
  assertEquals(time.seconds(3_601_000), 4);
});

Deno.test("serve() knows the copies that waited in the socket while it was stopped", () => {
  const ADD = 6;
  const box = new Box();
  const time = new ServingTime(0);
  const add = word(7, ADD) + fields(HEAP_BASE, 1);
  const reply = head(7, ADD, 0, 8) + fields(0);
  assertEquals(box.ask(add), reply);
  box.clock[0] = time.seconds(120_000);
  assertEquals(box.ask(add), reply);
});

Deno.test("ServingTime goes on where an earlier daemon's ended", () => {
  const time = new ServingTime(5000, 70);
  assertEquals(time.seconds(5900), 70);
  assertEquals(time.seconds(6100), 71);
});
