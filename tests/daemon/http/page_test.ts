/** What the page calculates by itself: colours, and where cells lie. */

import { assert, assertEquals } from "@std/assert";
import {
  colourOf,
  decode,
  fullness,
  luminance,
  ofOrder,
  THEMES,
} from "../../../lib/daemon/http/page/colours.js";
import { hilbert, layOut, rectangle } from "../../../lib/daemon/http/page/curve.js";

type Theme = keyof typeof THEMES;
const themes = Object.keys(THEMES) as Theme[];

/** The contrast of WCAG 2, 1 to 21. */
function contrast(a: number[], b: number[]): number {
  const [dark, light] = [luminance(a), luminance(b)].toSorted((x, y) => x - y);
  return (light! + 0.05) / (dark! + 0.05);
}

const distance = (a: number[], b: number[]) => Math.hypot(...a.map((c, i) => c - b[i]!));

Deno.test("fullness() is lighter the fuller a cell is in the dark, and darker in the light", () => {
  for (const theme of themes) {
    const lightness = Array.from(
      { length: 255 },
      (_, i) => luminance(fullness(theme, (i + 1) / 255)),
    );
    lightness.forEach((now, i) => {
      const before = lightness[i - 1] ?? now;
      if (theme === "dark") assert(now > before || i === 0, `${theme}, ${i + 1} of 255`);
      else assert(now < before || i === 0, `${theme}, ${i + 1} of 255`);
    });
    assert(contrast(fullness(theme, 1 / 255), fullness(theme, 1)) > 5, theme);
  }
});

Deno.test("colourOf() tells what was used and is free from what was never touched, and both from what is live", () => {
  const [TOUCHED, WHOLE] = [1 << 14, 1 << 13];
  for (const theme of themes) {
    for (const mode of ["fullness", "sizes"]) {
      const free = colourOf(theme, mode, TOUCHED | WHOLE | 9 << 8);
      const untouched = colourOf(theme, mode, WHOLE | 9 << 8);
      const absent = colourOf(theme, mode, 1 << 15);
      assert(distance(free, untouched) > 25, `${theme} ${mode} free`);
      assert(distance(absent, untouched) > 12, `${theme} ${mode} absent`);
      for (let order = 0; order <= 30; order++) {
        for (let full = 32; full < 256; full++) {
          const live = colourOf(theme, mode, TOUCHED | order + 1 << 8 | full);
          const context = `${theme} ${mode} order ${order} fullness ${full}`;
          assert(live.every((channel: number) => channel >= 0 && channel <= 255), context);
          assert(distance(live, free) > 20 && distance(live, untouched) > 20, context);
        }
      }
    }
  }
});

Deno.test("ofOrder() gives neighbouring orders colours that can be told apart", () => {
  for (const theme of themes) {
    for (let order = 1; order <= 30; order++) {
      const apart = distance(ofOrder(theme, order), ofOrder(theme, order - 1));
      assert(apart > 18, `${theme}, order ${order}: ${apart}`);
    }
  }
});

Deno.test("decode() gives the whole of a cell only for 255", () => {
  assertEquals(decode(255).share, 1);
  assertEquals(decode(0).share, 0);
  assert(decode(254).share < 1);
});

Deno.test("hilbert() walks through all cells of a square, each beside the one before", () => {
  for (const side of [1, 2, 4, 32, 256]) {
    const places = layOut(side, "hilbert");
    assertEquals(new Set(places).size, side * side);
    for (let cell = 1; cell < places.length; cell++) {
      const [a, b] = [places[cell - 1]!, places[cell]!];
      const rows = Math.abs(Math.floor(a / side) - Math.floor(b / side));
      assertEquals(rows + Math.abs(a % side - b % side), 1, `cell ${cell} of ${side * side}`);
    }
    assertEquals([hilbert(side, 0), hilbert(side, side * side - 1)], [0, side - 1]);
  }
});

Deno.test("rectangle() holds the cells of every block and no others, along both curves", () => {
  const side = 16;
  for (const curve of ["hilbert", "rows"]) {
    const places = layOut(side, curve);
    for (let count = 1; count <= side * side; count *= 2) {
      for (let first = 0; first < side * side; first += count) {
        const { x, y, width, height } = rectangle(side, curve, first, count);
        const inside = Array.from(
          { length: width * height },
          (_, i) => (y + Math.floor(i / width)) * side + x + i % width,
        );
        const cells = Array.from(places.subarray(first, first + count));
        const context = `${curve}, ${count} from ${first}`;
        assertEquals(inside.toSorted(), cells.toSorted(), context);
      }
    }
  }
});
