import { assertEquals, assertThrows } from "@std/assert";
import { Batch, replayBatch } from "../../../lib/daemon/cluster/batch.ts";
import { SOURCE_BYTES } from "../../../lib/system/address.ts";
import { Random } from "../../testing.ts";

const [AT, SOURCE] = [100, 70_000];

Deno.test("replayBatch() gives back what was added to a Batch, in order", () => {
  const random = new Random(1);
  const io = new Uint8Array(70_100);
  const batch = new Batch(7);
  const added = Array.from({ length: 50 }, (_, i) => ({
    datagram: random.bytes(i === 20 ? 65_507 : random.below(300)),
    source: random.bytes(SOURCE_BYTES),
    clock: random.word() | 0,
    judged: { proven: random.below(2), limit: random.below(65_508) },
  }));
  for (const { datagram, source, clock, judged } of added) {
    io.set(datagram, AT);
    io.set(source, SOURCE);
    batch.add(io, AT, datagram.length, SOURCE, { clock, ...judged });
  }
  const replayed: typeof added = [];
  const there = new Uint8Array(70_100);
  replayBatch(batch.bytes, there, AT, SOURCE, (length, clock, judged) => {
    const datagram = there.slice(AT, AT + length);
    replayed.push({ datagram, source: there.slice(SOURCE, SOURCE + SOURCE_BYTES), clock, judged });
  });
  assertEquals(replayed, added);
  assertEquals(batch.length, batch.bytes.length);
  assertEquals(batch.length, batch.bytes.buffer.byteLength, "who keeps it keeps no more");
});

Deno.test("a batch is laid out as lib/daemon/cluster/batch.ts draws it", () => {
  const io = Uint8Array.from({ length: 64 }, (_, i) => i);
  const batch = new Batch(1);
  batch.add(io, 40, 3, 0, { clock: 5, proven: 1, limit: 258 });
  const source = io.slice(0, SOURCE_BYTES).toHex();
  assertEquals(batch.bytes.toHex(), `0000000300000005${"80000102"}${source}${"28292a"}`);
});

Deno.test("replayBatch() throws when a batch is cut short", () => {
  const io = new Uint8Array(200);
  const batch = new Batch(1);
  batch.add(io, 0, 100, 100, { clock: 0, proven: 0, limit: 300 });
  for (let end = 1; end < batch.length; end++) {
    assertThrows(() => replayBatch(batch.bytes.slice(0, end), io, 0, 100, () => {}), RangeError);
  }
});
