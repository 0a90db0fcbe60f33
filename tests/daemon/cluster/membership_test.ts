/** What a daemon of a cluster tells its clients: hello's three fields, and who has the other ranges. */

import { assertEquals } from "@std/assert";
import { ERRNO } from "../../../lib/protocol/errno.ts";
import { HEAP_BASE, MIN_HEAP, RANGE_BYTES } from "../../../lib/heap/heap.ts";
import { Membership } from "../../../lib/daemon/cluster/membership.ts";
import { Counter } from "../../../lib/daemon/counters.ts";
import { Refusal } from "../../../lib/daemon/refusal.ts";
import { Box, type BoxOptions, fields, head, word } from "../../testing.ts";

const [MALLOC, FREE, READ, WRITE, REALLOC, CAS, ADD, HELLO] = [0, 1, 2, 3, 4, 5, 6, 7];
const BASE = HEAP_BASE + 2 * RANGE_BYTES;
const OWNER_OF_5 = fields(0, 0x0000_ffff_c000_0205n, 8081);
const SESSION_HELLO = word(1, HELLO, { flags: 0x03 }) + fields(0, 0);

/** A daemon that has range 2 of 6. */
function newBox(options: BoxOptions = {}): Box {
  const membership = new Membership(2);
  membership.fence = 9;
  membership.setOwner(5, "192.0.2.5", 8081);
  return new Box({ membership, ...options });
}

Deno.test("hello tells range, fence and ranges to who is in a session", () => {
  const box = newBox();
  const told = box.ask(SESSION_HELLO)!;
  assertEquals(told.slice(0, 32), word(1, HELLO, { flags: 0x83 }) + fields(80));
  assertEquals(told.slice(48, 64), fields(BASE));
  assertEquals(told.slice(-48), fields(2, 9, 6));
  assertEquals(box.ask(word(2, HELLO))!.slice(0, 32), head(2, HELLO, 0, 40));
});

Deno.test("hello leaves the three out where a stranger has no room, who can make some", () => {
  const box = newBox();
  box.from("192.0.2.1", 40000);
  assertEquals(box.ask(SESSION_HELLO)!.length, 2 * 72);
  assertEquals(box.ask(SESSION_HELLO + fields(0))!.slice(-48), fields(2, 9, 6));
});

Deno.test("a request with a pointer of another range is told its owner, and nothing is remembered", () => {
  const box = newBox();
  const there = HEAP_BASE + 5 * RANGE_BYTES + 16;
  const told = (opcode: number) => head(7, opcode, ERRNO.EREMOTE, 24) + OWNER_OF_5;
  for (
    const [opcode, rest] of [
      [FREE, ""],
      [READ, fields(4)],
      [WRITE, fields(1) + "61"],
      [REALLOC, fields(64)],
      [CAS, fields(0, 1)],
      [ADD, fields(1)],
    ] as const
  ) assertEquals(box.ask(word(7, opcode) + fields(there) + rest), told(opcode), `opcode ${opcode}`);
  assertEquals(box.service.counters[Counter.refused + Refusal.otherRange], 6);
  assertEquals(box.service.counters[Counter.refused + Refusal.outsideHeap], 0);
  // The tag is as good as new.
  assertEquals(box.ask(word(7, MALLOC) + fields(8)), head(7, MALLOC, 0, 8) + fields(BASE));
});

Deno.test("a range that nobody is known to have is told as zeros; one that does not exist is EFAULT", () => {
  const box = newBox();
  const read = (pointer: number) => box.ask(word(1, READ) + fields(pointer, 1));
  const nobody = head(1, READ, ERRNO.EREMOTE, 24) + fields(0, 0, 0);
  const fault = head(1, READ, ERRNO.EFAULT, 0);
  assertEquals(read(HEAP_BASE), nobody);
  assertEquals(read(HEAP_BASE - 1), fault);
  assertEquals(read(HEAP_BASE + 6 * RANGE_BYTES), fault);
  assertEquals(read(BASE + MIN_HEAP), fault, "of our range, but behind our heap");
  assertEquals(read(2 ** 63), fault);
});

Deno.test("an access over the end of our heap or range is EFAULT, with nothing done", () => {
  const box = newBox();
  const end = BASE + MIN_HEAP;
  const write = word(1, WRITE) + fields(end - 1, 2) + "6161";
  assertEquals(box.ask(write), head(1, WRITE, ERRNO.EFAULT, 0));
  const whole = word(2, READ) + fields(end - 1, 1);
  assertEquals(box.ask(whole), head(2, READ, 0, 1) + "00");
  const across = word(3, READ) + fields(BASE + RANGE_BYTES - 1, 2);
  assertEquals(box.ask(across), head(3, READ, ERRNO.EFAULT, 0));
});

Deno.test("an owner that has no room is refused like any other reply", () => {
  const box = newBox();
  const there = HEAP_BASE + 5 * RANGE_BYTES;
  const many = word(1, FREE) + fields(there);
  const reply = box.ask(many.repeat(4000))!;
  const told = head(1, FREE, ERRNO.EREMOTE, 24) + OWNER_OF_5;
  assertEquals(reply.slice(0, told.length), told);
  assertEquals(reply.slice(-32), head(1, FREE, ERRNO.EMSGSIZE, 0));
});

Deno.test("a classic request with a pointer of another range gets what a bad pointer gets", () => {
  const box = newBox();
  assertEquals(box.ask(fields(READ, HEAP_BASE + 5 * RANGE_BYTES, 4)), "");
  assertEquals(box.ask(fields(FREE, HEAP_BASE + 5 * RANGE_BYTES)), undefined);
});
