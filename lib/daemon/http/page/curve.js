/**
 * How cell numbers are laid out in a square of `side` by `side` cells, a power of two: along a Hilbert
 * curve, or row by row.
 */

/**
 * Where cell `d` of a Hilbert curve lies, as `y * side + x` (Hilbert, 1891; the loop is that of Warren's
 * Hacker's Delight, chapter 16). It starts at the top left, and ends at the top right.
 */
export function hilbert(side, d) {
  let [x, y] = [0, 0];
  for (let s = 1; s < side; s *= 2, d >>>= 2) {
    const right = d >>> 1 & 1;
    const down = (d ^ right) & 1;
    if (down === 0) {
      if (right === 1) [x, y] = [s - 1 - x, s - 1 - y];
      [x, y] = [y, x];
    }
    x += s * right;
    y += s * down;
  }
  return y * side + x;
}

/** For each cell, where it lies. */
export function layOut(side, curve) {
  return Uint32Array.from(
    { length: side * side },
    (_, cell) => curve === "hilbert" ? hilbert(side, cell) : cell,
  );
}

/**
 * The rectangle of `count` cells from `first` on, where `count` is a power of two of which `first` is a
 * multiple: a square or two beside each other on the Hilbert curve, and otherwise whole rows or a part
 * of one.
 *
 * @returns {{ x: number, y: number, width: number, height: number }}
 */
export function rectangle(side, curve, first, count) {
  if (curve === "rows") {
    const width = Math.min(side, count);
    return { x: first % side, y: Math.floor(first / side), width, height: count / width };
  }
  const edge = 2 ** Math.floor(Math.log2(count) / 2);
  const corner = (cell) => {
    const at = hilbert(side, cell);
    return [at % side & -edge, Math.floor(at / side) & -edge];
  };
  const [x, y] = corner(first);
  if (edge * edge === count) return { x, y, width: edge, height: edge };
  const [u, v] = corner(first + count - 1);
  return {
    x: Math.min(x, u),
    y: Math.min(y, v),
    width: edge + Math.abs(x - u),
    height: edge + Math.abs(y - v),
  };
}
