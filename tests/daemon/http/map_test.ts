import { assertEquals } from "@std/assert";
import { HeapMap, MAX_CELLS, type Pages } from "../../../lib/daemon/http/map.ts";
import { Buddy, NONE } from "../../../lib/heap/buddy.ts";
import { GRAIN } from "../../../lib/heap/heap.ts";
import { PAGE } from "../../../lib/heap/metadata.ts";
import { Random } from "../../testing.ts";

const PAGE_GRAINS = PAGE / GRAIN;

/** A cell, said in words rather than bits. */
interface Cell {
  absent: boolean;
  touched: boolean;
  whole: boolean;
  order: number;
  fullness: number;
}

const ABSENT: Cell = { absent: true, touched: false, whole: false, order: NONE, fullness: 0 };

function decode(cell: number): Cell {
  return {
    absent: cell >>> 15 === 1,
    touched: (cell >>> 14 & 1) === 1,
    whole: (cell >>> 13 & 1) === 1,
    order: (cell >>> 8 & 31) - 1,
    fullness: cell & 255,
  };
}

/**
 * What the map ought to show, from a walk through the allocator: it asks only where live blocks start and how
 * large they are. All else is free, in the largest blocks that are aligned.
 */
function expected(buddy: Buddy, { dirty, cleared }: Pages, count: number): Cell[] {
  const { missing, maxOrder } = buddy;
  const size = (missing + buddy.grains) / count;
  const wholes = new Int8Array(count).fill(NONE); // of the live block that a cell is part of
  const pieces = new Map<number, Map<number, number>>(); // of a cell that is cut up, live grains by order
  for (const [grain, order] of buddy.allLive()) {
    const [start, length] = [missing + grain, 2 ** order];
    if (length >= size) wholes.fill(order, start / size, (start + length) / size);
    else {
      const cell = Math.floor(start / size);
      const live = pieces.get(cell) ?? new Map();
      pieces.set(cell, live.set(order, (live.get(order) ?? 0) + length));
    }
  }
  const takenBefore = new Int32Array(count + 1);
  for (let i = 0; i < count; i++) {
    const taken = i * size < missing || wholes[i] !== NONE || pieces.has(i);
    takenBefore[i + 1] = takenBefore[i]! + (taken ? 1 : 0);
  }
  return Array.from({ length: count }, (_, i) => {
    const [start, to] = [i * size, (i + 1) * size];
    if (to <= missing) return ABSENT;
    const from = Math.max(start, missing);
    const touched = [dirty, cleared].some((pages) =>
      pages.subarray(
        Math.floor((from - missing) / PAGE_GRAINS),
        Math.ceil((to - missing) / PAGE_GRAINS),
      ).some((page) => page !== 0)
    );
    const whole = wholes[i]!;
    if (whole !== NONE) return { absent: false, touched, whole: true, order: whole, fullness: 255 };
    let free = NONE;
    for (let order = Math.log2(size); order <= maxOrder; order++) {
      const cells = 2 ** order / size;
      const first = Math.floor(i / cells) * cells;
      if (takenBefore[first + cells] === takenBefore[first]) free = order;
    }
    if (free !== NONE) return { absent: false, touched, whole: true, order: free, fullness: 0 };
    const live = [...pieces.get(i) ?? []];
    const grains = live.reduce((sum, [, n]) => sum + n, 0);
    const [order] = live.sort(([a, n], [b, m]) => m - n || b - a)[0] ?? [NONE];
    const share = grains / (to - from);
    const fullness = share === 1 ? 255 : share === 0 ? 0 : 1 + Math.floor(share * 254);
    return { absent: false, touched, whole: false, order, fullness };
  });
}

const newPages = (grains: number) => {
  const pages = Math.ceil(grains / PAGE_GRAINS);
  return { dirty: new Uint8Array(pages), cleared: new Uint8Array(pages) };
};

/** Heaps of all shapes, in grains, and how many cells they may have. */
const SHAPES: [grains: number, maxCells: number][] = [
  ...[1, 2, 3, 5, 6, 31, 33, 255, 256, 257, 1000].map((n): [number, number] => [n, MAX_CELLS]),
  ...[1000, 1023, 4096, 4097, 5000, 12_291, 65_535].map((n): [number, number] => [n, 64]),
  ...[4096, 99_999].map((n): [number, number] => [n, 1]),
  [131_072 + 4711, 4096],
  [300_000, MAX_CELLS],
];

/** Of a bit less than 4 GiB, a bit more, and as large as there are. */
const LARGE = [2 ** 28 - 1, 2 ** 28 + 4711, 2 ** 30];

/** Allocates, frees, resizes and writes at random, and looks at the map in between. */
function exercise(grains: number, maxCells: number, seed: number, rounds = 6): void {
  const random = new Random(seed);
  const buddy = new Buddy(grains);
  const pages = newPages(grains);
  const map = new HeapMap(buddy, pages, maxCells);
  const live: number[] = [];
  const steps = Math.min(2000, 4 * grains);
  /** What somebody has who only fetches the changes. */
  const viewer = new Uint16Array(map.cells.length);
  let seen = 0;
  for (let round = 1; round <= rounds; round++) {
    for (let i = 0; i < steps; i++) {
      const tide = round % 3 === 0 ? 0.3 : 0.6;
      if (random.chance(tide)) {
        const largest = random.chance(0.1) ? buddy.maxOrder : Math.min(6, buddy.maxOrder);
        const grain = buddy.allocate(random.below(largest + 1));
        if (grain !== NONE) live.push(grain);
      } else if (live.length > 0) {
        const [grain] = live.splice(random.below(live.length), 1);
        buddy.free(grain!);
      }
      if (random.chance(0.02) && live.length > 0) {
        const grain = random.pick(live);
        buddy.resize(grain, buddy.orderAt(grain), random.below(buddy.maxOrder + 1));
      }
      if (random.chance(0.01)) {
        random.pick([pages.dirty, pages.cleared])[random.below(pages.dirty.length)] = 1;
      }
    }
    let slices = 1;
    while (!map.walk(round, random.chance(0.5) ? 0 : Infinity)) slices++;
    const context = `${grains} grains, ${maxCells} cells, seed ${seed}, round ${round}, ${slices}`;
    const wanted = expected(buddy, pages, map.cells.length);
    assertEquals(Array.from(map.cells, decode), wanted, context);

    const runs = map.changes(seen);
    for (let at = 0; at < runs.length; at += 2 + runs[at + 1]!) {
      viewer.set(runs.subarray(at + 2, at + 2 + runs[at + 1]!), runs[at]!);
    }
    seen = round;
    assertEquals(viewer, map.cells, `changes, ${context}`);
    assertEquals(map.changes(seen).length, 0, `no changes, ${context}`);
  }
}

Deno.test("HeapMap shows what a walk through the allocator finds, on random traces in heaps of all shapes", () => {
  for (const [grains, maxCells] of SHAPES) {
    for (let seed = 1; seed <= 3; seed++) exercise(grains, maxCells, seed);
  }
  for (const grains of LARGE) exercise(grains, MAX_CELLS, 1, 2);
});

Deno.test("HeapMap has 65,536 cells of 64 KiB in a heap of 4 GiB, and one cell for each grain of 4 KiB", () => {
  const map = (grains: number) => new HeapMap(new Buddy(grains), newPages(grains));
  assertEquals([map(2 ** 28).cells.length, map(2 ** 28).order], [65536, 12]);
  assertEquals([map(2 ** 8).cells.length, map(2 ** 8).order], [256, 0]);
  assertEquals([map(2 ** 9).cells.length, map(2 ** 9).order], [256, 1]);
});

Deno.test("HeapMap.changes() gives all cells to whoever has none, whatever their number", () => {
  const map = new HeapMap(new Buddy(65536), newPages(65536));
  map.walk(1, Infinity);
  const runs = map.changes(0);
  assertEquals(runs.length, 65536 + 4);
  assertEquals([runs[0], runs[1]], [0, 32768]);
  assertEquals([runs[32770], runs[32771]], [32768, 32768]);
});
