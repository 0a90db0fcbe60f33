import { assert, assertEquals, assertThrows } from "@std/assert";
import { HEAP_BASE } from "../../lib/heap/heap.ts";
import { Undo } from "../../lib/heap/undo.ts";
import { METHODS } from "../../lib/protocol/wire.ts";
import { fields, Random, word } from "../testing.ts";
import { areEqual, isKilled, Killed, killEverywhere, Machine } from "./machine.ts";

Deno.test("a daemon killed before any store has done each request wholly or not at all", () => {
  const machine = new Machine();
  const kills = killEverywhere(machine, { seed: 13, steps: 90, stride: 7 });
  assert(kills > 600, `only ${kills} kills`);
  assert(machine.start().count("refused") > 0, "nothing was too much");
});

Deno.test("the check finds a daemon that does not save, or does not commit", () => {
  class Unsaving extends Undo {
    override save(): void {}
  }
  class Uncommitting extends Undo {
    override commit(): void {}
  }
  for (const Careless of [Unsaving, Uncommitting]) {
    assertThrows(
      () => killEverywhere(new Machine(Careless), { seed: 13, steps: 60, stride: 7 }),
      Error,
    );
  }
});

Deno.test("a daemon killed while it recovers recovers when it starts again", () => {
  const random = new Random(5);
  const machine = new Machine();
  const box = machine.start();
  box.ask(word(1, METHODS.malloc.opcode) + fields(5000));
  const before = machine.visible(box);
  const request = word(2, METHODS.realloc.opcode) + fields(HEAP_BASE, 100);
  assert(isKilled(machine, box, request, 40));
  machine.spoil(random);
  const killed = machine.copy();
  for (let limit = 0;; limit++) {
    machine.restore(killed);
    machine.reaper.stores = 0;
    machine.reaper.limit = limit;
    try {
      machine.start();
      break;
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
    } finally {
      machine.reaper.limit = Infinity;
    }
    assert(areEqual(machine.visible(machine.start()), before));
  }
});

Deno.test("a daemon that starts over what another left goes on with its epoch, replies and time", () => {
  const machine = new Machine();
  const hello = word(7, METHODS.hello.opcode);
  const add = word(8, METHODS.add.opcode) + fields(HEAP_BASE, 1);
  const first = machine.start();
  const epoch = first.ask(hello);
  const pointer = first.ask(word(6, METHODS.malloc.opcode) + fields(64));
  const old = first.ask(add);
  const second = machine.start();
  assertEquals(second.ask(hello), epoch);
  assertEquals(second.ask(word(6, METHODS.malloc.opcode) + fields(64)), pointer);
  assertEquals(second.ask(add), old);
  assertEquals(second.heap.buddy.liveBlocks, 1);
  assertEquals(second.count("blocks"), 1);
});

Deno.test("Undo refuses more than it has room for, and what was done before can be undone", () => {
  const machine = new Machine();
  const undo = new Undo(machine.state.undo, machine.saved, machine.memory);
  const { held } = machine.state.quota;
  assertThrows(
    () => {
      for (let i = 0;; i = (i + 1) % held.length) {
        undo.note(held, i);
        held[i]!++;
      }
    },
    Error,
    "no room for words",
  );
  undo.rollback(() => {});
  assert(held.every((grains) => grains === 0));
  assertThrows(
    () => {
      for (;;) undo.save(0, 0, 4096);
    },
    Error,
    "no room for bytes",
  );
});
