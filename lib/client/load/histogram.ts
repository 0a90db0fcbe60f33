/**
 * Counts of latencies, to three digits, as an HDR histogram (Gil Tene) has them: the values below 2,048 ns
 * have a bucket each, and every octave above has 1,024 of the same width, none wider than a thousandth of
 * what it counts. The library for it comes with three others, which whoever runs the tests would fetch.
 */

const BITS = 10;
/** Buckets of an octave. */
const STEPS = 2 ** BITS;
/** Values of 2^42 ns, 73 minutes, and more are counted as one less: no call takes that long. */
const OCTAVES = 42;
const MOST = 2 ** OCTAVES - 1;
const WORD = 2 ** 32;

export class Histogram {
  readonly #counts = new Float64Array((OCTAVES - BITS + 1) * STEPS);
  #max = 0;
  total = 0;

  /** Counts a whole number of nanoseconds, so many times. */
  record(nanoseconds: number, count: number): void {
    this.#counts[bucketOf(Math.min(nanoseconds, MOST))]! += count;
    this.#max = Math.max(this.#max, nanoseconds);
    this.total += count;
  }

  /**
   * The value that so many percent of all values do not exceed, or the highest one that is counted in the
   * same bucket; 0 if there are none.
   */
  percentile(percent: number): number {
    let rest = Math.max(1, Math.ceil(this.total * percent / 100));
    if (rest >= this.total) return this.#max;
    for (const [bucket, count] of this.#counts.entries()) {
      rest -= count;
      if (rest <= 0) return Math.min(lastOf(bucket), this.#max);
    }
    return this.#max;
  }

  reset(): void {
    this.#counts.fill(0);
    this.#max = 0;
    this.total = 0;
  }
}

/** Powers of two that a bucket's value is divided by: 0 for the first two octaves of buckets. */
function bucketOf(value: number): number {
  const highest = value < WORD ? 31 - Math.clz32(value) : 63 - Math.clz32(value / WORD);
  const shift = Math.max(0, highest - BITS);
  return shift * STEPS + Math.floor(value / 2 ** shift);
}

/** The twin of `bucketOf`: the highest value of a bucket. */
function lastOf(bucket: number): number {
  const shift = Math.max(0, Math.floor(bucket / STEPS) - 1);
  return (bucket - shift * STEPS + 1) * 2 ** shift - 1;
}
