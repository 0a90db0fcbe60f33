import { assert, assertEquals } from "@std/assert";
import { Histogram } from "../../lib/client/load/histogram.ts";
import { Random } from "../testing.ts";

const PERCENTS = [0, 0.1, 50, 90, 99, 99.9, 100];

Deno.test("percentile() is what sorting all values gives, a thousandth too high at most", () => {
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]!;
  const random = new Random(seed);
  for (let round = 0; round < 20; round++) {
    const histogram = new Histogram();
    const values: number[] = [];
    for (let i = 0; i < 500; i++) {
      const value = random.below(2 ** (1 + random.below(31))) * 2 ** random.below(11);
      const count = 1 + random.below(3);
      histogram.record(value, count);
      for (let n = 0; n < count; n++) values.push(value);
    }
    values.sort((a, b) => a - b);
    assertEquals(histogram.total, values.length);
    for (const percent of PERCENTS) {
      const rank = Math.max(1, Math.ceil(values.length * percent / 100));
      const exact = values[rank - 1]!;
      const found = histogram.percentile(percent);
      const what = `seed ${seed}: p${percent} is ${found}, of ${exact}`;
      assert(found >= exact && found <= exact * 1.001, what);
    }
    assertEquals(histogram.percentile(100), values.at(-1), `seed ${seed}`);
  }
});

Deno.test("record() counts each end of each bucket, and what is beyond all of them", () => {
  const histogram = new Histogram();
  for (let octave = 0; octave < 53; octave++) {
    for (const value of [2 ** octave - 1, 2 ** octave]) {
      histogram.reset();
      histogram.record(value, 1);
      histogram.record(Number.MAX_SAFE_INTEGER, 1);
      const found = histogram.percentile(50);
      const expected = Math.min(value, 2 ** 42 - 1);
      assert(found >= expected && found <= expected * 1.001, `${found} of ${value}`);
      assertEquals(histogram.percentile(100), Number.MAX_SAFE_INTEGER);
    }
  }
});

Deno.test("an empty histogram has percentiles of 0, and so has one that was reset", () => {
  const histogram = new Histogram();
  for (let i = 0; i < 2; i++) {
    assertEquals(PERCENTS.map((percent) => histogram.percentile(percent)), PERCENTS.map(() => 0));
    histogram.record(5, 1);
    histogram.reset();
  }
});
