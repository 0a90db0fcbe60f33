import { assert, assertEquals, assertThrows } from "@std/assert";
import { Buddy, buddyShape, Freed, MAX_GRAINS, NONE } from "../../lib/heap/buddy.ts";
import { standAlone } from "../../lib/heap/metadata.ts";
import { Random } from "../testing.ts";

const GRAIN = 16;
const KIB = 1024;
const GIB = 1024 ** 3;

/** Heaps of all shapes, in grains. */
const SHAPES = [
  ...[1, 2, 3, 5, 31, 33, 1000],
  ...[4 * KIB, 4 * KIB + 16, 3 * 4 * KIB + 48, KIB * KIB - 16, 3 * GIB].map((size) => size / GRAIN),
  ...[2, 4, 16].flatMap((gib) => [-5, -1, 0, 1].map((more) => gib * GIB / GRAIN + more)),
].filter((grains) => grains <= MAX_GRAINS);

interface Block {
  start: number;
  order: number;
}

const end = ({ start, order }: Block) => start + 2 ** order;

/**
 * What the allocator ought to do, told naively: it knows the live blocks, and finds the free ones by
 * halving the heap until a block is wholly free or wholly live.
 */
class Model {
  readonly live = new Map<number, Block>();
  highWater = 0;

  constructor(readonly grains: number) {}

  /** The powers of two that add up to the heap, from the smallest up. */
  roots(): Block[] {
    const roots: Block[] = [];
    let start = 0;
    for (let order = 0; start < this.grains; order++) {
      if (Math.floor(this.grains / 2 ** order) % 2 === 0) continue;
      roots.push({ start, order });
      start += 2 ** order;
    }
    return roots;
  }

  /** In order of address. */
  free(): Block[] {
    const live = [...this.live.values()];
    return this.roots().flatMap((root) => freeWithin(root, live));
  }

  allocate(order: number): number {
    const [best] = this.free().filter((block) => block.order >= order)
      .sort((a, b) => a.order - b.order || a.start - b.start);
    return best === undefined ? NONE : this.#add({ start: best.start, order });
  }

  release(start: number): Freed {
    if (this.live.delete(start)) return Freed.freed;
    const isFree = this.free().some((block) => block.start <= start && start < end(block));
    return isFree ? Freed.alreadyFree : Freed.notAllocated;
  }

  resize(start: number, order: number): boolean {
    const grown = { start, order };
    if (!isAligned(this.grains, grown) || end(grown) > this.grains) return false;
    const others = [...this.live.values()].filter((block) => block.start !== start);
    if (others.some((block) => overlap(block, grown))) return false;
    this.#add(grown);
    return true;
  }

  #add(block: Block): number {
    this.live.set(block.start, block);
    this.highWater = Math.max(this.highWater, end(block));
    return block.start;
  }
}

/** Blocks of an order lie a multiple of their size before the heap's end. */
const isAligned = (grains: number, { start, order }: Block) => (grains - start) % 2 ** order === 0;

const overlap = (a: Block, b: Block) => a.start < end(b) && b.start < end(a);

function freeWithin(block: Block, live: Block[]): Block[] {
  const inside = live.filter((other) => overlap(block, other));
  if (inside.length === 0) return [block];
  const order = block.order - 1;
  if (inside[0]!.order > order) return [];
  return [
    ...freeWithin({ start: block.start, order }, inside),
    ...freeWithin({ start: block.start + 2 ** order, order }, inside),
  ];
}

/** Holds everything that the allocator tells about itself against the model. */
function check(buddy: Buddy, model: Model, random: Random, context: string): void {
  const live = [...model.live.values()].sort((a, b) => a.start - b.start);
  live.forEach((block, i) => {
    const previous = live[i - 1];
    assert(previous === undefined || end(previous) <= block.start, `overlap, ${context}`);
    assert(end(block) <= buddy.grains, `beyond the heap, ${context}`);
    assert(isAligned(buddy.grains, block), `alignment, ${context}`);
  });
  const free = model.free();
  const freeBlocks = new Array<number>(buddy.maxOrder + 1).fill(0);
  for (const { order } of free) freeBlocks[order]!++;
  const inUse = live.reduce((sum, { order }) => sum + 2 ** order, 0);
  assertEquals(Array.from(buddy.freeBlocks), freeBlocks, `freeBlocks, ${context}`);
  assertEquals(buddy.largestFreeOrder, freeBlocks.findLastIndex((n) => n > 0), context);
  assertEquals(buddy.liveBlocks, live.length, `liveBlocks, ${context}`);
  assertEquals(buddy.grainsInUse, inUse, `grainsInUse, ${context}`);
  assertEquals(buddy.highWater, model.highWater, `highWater, ${context}`);

  const somewhere = random.below(buddy.grains);
  const probes = [0, buddy.grains - 1, somewhere, random.pick(live)?.start ?? 0];
  for (const grain of probes) {
    const holder = live.find((block) => block.start <= grain && grain < end(block));
    const endOfLive = holder === undefined ? NONE : end(holder);
    assertEquals(buddy.endOfLive(grain), endOfLive, `endOfLive ${grain}, ${context}`);
    assertEquals(buddy.orderAt(grain), model.live.get(grain)?.order ?? NONE, context);
    assertEquals(buddy.isFree(grain), holder === undefined, `isFree ${grain}, ${context}`);
  }
}

/** Does random things to the allocator and the model, and compares them after each. */
function exercise(buddy: Buddy, seed: number, steps: number): void {
  const random = new Random(seed);
  const model = new Model(buddy.grains);
  /** Full heaps and empty ones are both of interest: now and then the tide turns. */
  let growth = 0.7;
  for (let step = 0; step < steps; step++) {
    const context = `${buddy.grains} grains, seed ${seed}, step ${step}`;
    const live = [...model.live.values()];
    if (random.chance(0.02)) growth = random.pick([0.2, 0.5, 0.7, 0.9]);
    const target = random.pick(live);
    if (target === undefined || live.length < 60 && random.chance(growth)) {
      const order = random.chance(0.3) ? random.below(3) : random.below(buddy.maxOrder + 2);
      assertEquals(buddy.allocate(order), model.allocate(order), `allocate ${order}, ${context}`);
    } else if (random.chance(0.2)) {
      const grain = random.chance(0.5)
        ? random.below(buddy.grains)
        : target.start + random.below(2 ** target.order);
      assertEquals(buddy.free(grain), model.release(grain), `free ${grain}, ${context}`);
    } else if (random.chance(0.4)) {
      const order = random.chance(0.6)
        ? target.order + random.below(2)
        : random.below(buddy.maxOrder + 2);
      assertEquals(
        buddy.resize(target.start, target.order, order),
        model.resize(target.start, order),
        `resize ${target.start} from ${target.order} to ${order}, ${context}`,
      );
    } else {
      assertEquals(buddy.free(target.start), model.release(target.start), `free, ${context}`);
    }
    check(buddy, model, random, context);
  }
}

for (const grains of SHAPES) {
  Deno.test(`Buddy does what a naive model does on a heap of ${grains} grains`, () => {
    for (const seed of [1, 2, 3]) exercise(new Buddy(grains), seed, 400);
  });
}

/** Allocators with a fault each, which the comparison above must find. */
const CANARIES: Record<string, new (grains: number) => Buddy> = {
  "hands out a block twice": class extends Buddy {
    #count = 0;
    override allocate(order: number): number {
      const grain = super.allocate(order);
      if (++this.#count % 16 === 0) this.free(grain);
      return grain;
    }
  },
  "does not take the lowest address": class extends Buddy {
    override allocate(order: number): number {
      const lowest = super.allocate(order);
      const next = super.allocate(order);
      if (next === NONE) return lowest;
      super.free(lowest);
      return next;
    }
  },
  "loses a block that it should free": class extends Buddy {
    #count = 0;
    override free(grain: number): Freed {
      return ++this.#count % 16 === 0 ? Freed.freed : super.free(grain);
    }
  },
  "takes every refused free for the same": class extends Buddy {
    override free(grain: number): Freed {
      return super.free(grain) === Freed.freed ? Freed.freed : Freed.notAllocated;
    }
  },
  "grows over its buddy": class extends Buddy {
    override resize(grain: number, order: number, wanted: number): boolean {
      return super.resize(grain, order, wanted) || grain % 2 ** wanted === 0;
    }
  },
  "takes a block for free whose neighbour is": class extends Buddy {
    override isFree(grain: number): boolean {
      return super.isFree(grain) || super.isFree(grain ^ 1);
    }
  },
};

for (const [fault, Broken] of Object.entries(CANARIES)) {
  Deno.test(`the comparison with the model finds an allocator that ${fault}`, () => {
    assertThrows(() => exercise(new Broken(1000), 1, 400), Error, "seed 1");
  });
}

/** All that can be had in blocks of one order, then of all smaller ones. */
function exhaust(buddy: Buddy, order: number): number[] {
  const blocks: number[] = [];
  for (let k = order; k >= 0; k--) {
    for (let grain = buddy.allocate(k); grain !== NONE; grain = buddy.allocate(k)) {
      blocks.push(grain);
    }
  }
  return blocks;
}

for (const grains of SHAPES) {
  Deno.test(`Buddy gives away all of ${grains} grains and gets them back in one piece`, () => {
    const buddy = new Buddy(grains);
    const untouched = Array.from(buddy.freeBlocks);
    const blocks = exhaust(buddy, Math.max(buddy.maxOrder - 10, 0));

    assertEquals(buddy.grainsInUse, grains);
    assertEquals(buddy.highWater, grains);
    assertEquals(buddy.largestFreeOrder, NONE);
    assertEquals(new Set(blocks).size, blocks.length);

    const random = new Random(grains);
    const shuffled = blocks.map((block) => ({ block, key: random.word() }))
      .sort((a, b) => a.key - b.key);
    for (const { block } of shuffled) assertEquals(buddy.free(block), Freed.freed);
    assertEquals(Array.from(buddy.freeBlocks), untouched, `seed ${grains}`);
    assertEquals(buddy.grainsInUse, 0);
    assertEquals(buddy.liveBlocks, 0);
    assertEquals(buddy.allocate(buddy.maxOrder), grains - 2 ** buddy.maxOrder);
  });
}

Deno.test("Buddy keeps thousands of blocks apart and loses none", () => {
  const buddy = new Buddy(100_000);
  const untouched = Array.from(buddy.freeBlocks);
  const taken = new Uint8Array(buddy.grains);
  const random = new Random(4);
  const live: Block[] = [];
  for (let step = 0; step < 300_000; step++) {
    const full = live.length > 20_000 || random.chance(0.45);
    const i = random.below(live.length);
    const block = live[i];
    if (full && block !== undefined) {
      assertEquals(buddy.free(block.start), Freed.freed, `seed 4, step ${step}`);
      taken.fill(0, block.start, end(block));
      live[i] = live.at(-1)!;
      live.pop();
    } else {
      const order = Math.clz32(random.word()); // half of them 0, a quarter 1, and so on
      const start = buddy.allocate(order);
      if (start === NONE) continue;
      const grains = taken.subarray(start, start + 2 ** order);
      assertEquals(grains.length, 2 ** order, `beyond the heap, seed 4, step ${step}`);
      assert(!grains.includes(1), `overlap, seed 4, step ${step}`);
      grains.fill(1);
      live.push({ start, order });
    }
  }
  assert(live.length > 1000);
  assertEquals(buddy.liveBlocks, live.length);
  assertEquals(buddy.grainsInUse, taken.reduce((sum, bit) => sum + bit, 0));
  for (const { start } of live) buddy.free(start);
  assertEquals(Array.from(buddy.freeBlocks), untouched);
});

Deno.test("Buddy gives every grain of 1 MiB once, and then those that come back", () => {
  const grains = KIB * KIB / GRAIN;
  const buddy = new Buddy(grains);
  for (let grain = 0; grain < grains; grain++) assertEquals(buddy.allocate(0), grain);
  assertEquals(buddy.allocate(0), NONE);
  assertEquals(buddy.free(12345), Freed.freed);
  assertEquals(buddy.free(54321), Freed.freed);
  assertEquals(buddy.allocate(1), NONE);
  assertEquals(buddy.allocate(0), 12345);
  assertEquals(buddy.allocate(0), 54321);
});

Deno.test("allocate() takes the lowest of the blocks that need the fewest splits", () => {
  const buddy = new Buddy(32);
  const [a, b, c, d] = [0, 2, 4, 6].map(() => buddy.allocate(1));
  assertEquals([a, b, c, d], [0, 2, 4, 6]);
  buddy.free(d!);
  buddy.free(a!);
  assertEquals(buddy.allocate(1), 0, "the lower of two of its order");
  assertEquals(buddy.allocate(0), 6, "the one that is split least, though others are larger");
  assertEquals(buddy.allocate(2), 8);
  assertEquals(buddy.allocate(4), 16);
  assertEquals(buddy.allocate(3), NONE);
});

Deno.test("free() tells the live from the free and from what is inside of a block", () => {
  const buddy = new Buddy(257);
  assertEquals(buddy.allocate(2), 1);
  assertEquals(buddy.free(2), Freed.notAllocated, "inside of a live block");
  assertEquals(buddy.free(4), Freed.notAllocated, "inside of a live block");
  assertEquals(buddy.free(5), Freed.alreadyFree, "free, and always was");
  assertEquals(buddy.free(0), Freed.alreadyFree, "the first, odd grain");
  assertEquals(buddy.free(1), Freed.freed);
  assertEquals(buddy.free(1), Freed.alreadyFree, "free again, and merged");
  assertEquals(buddy.free(3), Freed.alreadyFree, "inside of a free block");
});

Deno.test("allocate() starts at the lowest address, whatever the size of the heap", () => {
  for (const grains of SHAPES) assertEquals(new Buddy(grains).allocate(0), 0, `${grains} grains`);
});

Deno.test("a Buddy is all free when another one was killed while it made its first blocks", () => {
  for (const grains of SHAPES.filter((grains) => grains < KIB * KIB)) {
    const whole = standAlone(buddyShape(grains));
    new Buddy(grains, whole);
    const words = Array.from(whole.free).flatMap((word, at) => word === 0 ? [] : [at]);
    for (let stored = 0; stored <= words.length; stored++) {
      const left = standAlone(buddyShape(grains));
      for (const at of words.slice(0, stored)) left.free[at] = whole.free[at]!;
      if (stored > 0) left.freeBlocks.set(whole.freeBlocks);
      new Buddy(grains, left);
      assertEquals(left, whole, `${grains} grains, ${stored} words stored`);
    }
  }
});

Deno.test("resize() grows over a free buddy, shrinks, and else changes nothing", () => {
  const buddy = new Buddy(64);
  assertEquals(buddy.allocate(0), 0);
  assert(buddy.resize(0, 0, 6), "to the whole heap");
  assertEquals(buddy.grainsInUse, 64);
  assert(!buddy.resize(0, 6, 7), "to more than the heap");
  assert(buddy.resize(0, 6, 1));
  assertEquals(Array.from(buddy.freeBlocks), [0, 1, 1, 1, 1, 1, 0]);
  assertEquals(buddy.allocate(1), 2);
  const before = Array.from(buddy.freeBlocks);
  assert(!buddy.resize(0, 1, 2), "its buddy is live");
  assert(!buddy.resize(2, 1, 2), "it is the upper one of two");
  buddy.free(0);
  assert(!buddy.resize(2, 1, 2), "even if the lower is free");
  assertEquals(buddy.allocate(1), 0);
  assertEquals(Array.from(buddy.freeBlocks), before);
  assertEquals(buddy.orderAt(0), 1);
});

Deno.test("Buddy takes 2% to 4% of the heap for its bitmaps", () => {
  const sizes = [...SHAPES, MAX_GRAINS - 1, 2 ** 27 + 1].filter((grains) => grains >= 256);
  for (let grains = 256; grains < 5000; grains++) sizes.push(grains);
  for (const grains of sizes) {
    const share = new Buddy(grains).metadataBytes / (grains * GRAIN);
    assert(share >= 0.02 && share <= 0.04, `${grains} grains: ${share}`);
  }
});

Deno.test("Buddy refuses a number of grains that it cannot manage", () => {
  for (const grains of [0, -1, 1.5, NaN, Infinity, MAX_GRAINS + 1]) {
    assertThrows(() => new Buddy(grains), RangeError, `Cannot manage ${grains} grains`);
  }
});
