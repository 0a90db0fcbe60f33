import { assertEquals } from "@std/assert";
import { HEAP_BASE } from "../../lib/heap/heap.ts";
import { ERRNO } from "../../lib/protocol/errno.ts";
import { Box, fields, head, Random, word } from "../testing.ts";

const [MALLOC, FREE, REALLOC] = [0, 1, 4];
const { ENOMEM } = ERRNO;
const BASE = HEAP_BASE;

Deno.test("a quota is each address's own, whatever its port, and freed blocks go back to their owner", () => {
  const box = new Box({ size: 64 * 1024, quota: 8192 });
  box.from("127.0.0.1", 40000);
  assertEquals(box.ask(fields(MALLOC, 4096)), fields(BASE));
  box.from("127.0.0.1", 40001);
  assertEquals(box.ask(fields(MALLOC, 4096)), fields(BASE + 4096));
  assertEquals(box.ask(fields(MALLOC, 1)), fields(0));
  assertEquals(box.ask(word(1, MALLOC) + fields(1)), head(1, MALLOC, ENOMEM, 0));
  box.from("127.0.0.2", 40000);
  assertEquals(box.ask(fields(MALLOC, 8192)), fields(BASE + 8192));
  box.ask(fields(FREE, BASE)); // the other's
  assertEquals(box.ask(fields(MALLOC, 1)), fields(0));
  box.from("127.0.0.1", 40000);
  assertEquals(box.ask(fields(MALLOC, 4096)), fields(BASE));
});

Deno.test("quotas add up as in a naive model, whatever is allocated, moved and freed", () => {
  const seed = 7;
  const random = new Random(seed);
  const quota = 2048;
  const box = new Box({ size: 64 * 1024, quota });
  const usable = (length: number) => 16 * 2 ** Math.max(0, Math.ceil(Math.log2(length / 16)));
  const blocks = new Map<number, { owner: string; length: number }>();
  const held = (owner: string) =>
    [...blocks.values()].filter((block) => block.owner === owner)
      .reduce((sum, { length }) => sum + usable(length), 0);
  for (let step = 0; step < 5000; step++) {
    const owner = random.pick(["127.0.0.1", "127.0.0.2", "::1"]);
    box.from(owner, 40000 + random.below(9));
    const length = 1 + random.below(900);
    const pointer = blocks.size > 0 ? random.pick([...blocks.keys()]) : 0;
    const old = blocks.get(pointer);
    const action = random.below(3);
    if (action === 0) {
      const given = parseInt(box.ask(fields(MALLOC, length))!, 16);
      assertEquals(
        given !== 0,
        held(owner) + usable(length) <= quota,
        `seed ${seed}, step ${step}`,
      );
      if (given !== 0) blocks.set(given, { owner, length });
    } else if (action === 1 && old !== undefined) {
      box.ask(fields(FREE, pointer));
      blocks.delete(pointer);
    } else if (old !== undefined) {
      const reply = box.ask(word(step, REALLOC) + fields(pointer, length))!;
      const mine = held(owner) - (old.owner === owner ? usable(old.length) : 0);
      const fits = mine + usable(length) <= quota;
      assertEquals(reply.slice(8, 12) === "0000", fits, `seed ${seed}, step ${step}`);
      if (!fits) continue;
      blocks.delete(pointer);
      blocks.set(parseInt(reply.slice(32), 16), { owner, length });
    }
  }
});
