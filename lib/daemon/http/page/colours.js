/** What colour a cell has. Colours are red, green and blue from 0 to 255. */

/**
 * Cividis, made so that people with and without colour blindness see the same, and lighter is always more
 * (Nuñez, Anderton and Renslow, PLOS ONE 13(7), 2018): twelve stops of it.
 */
const CIVIDIS = [
  [0x00, 0x20, 0x4d],
  [0x00, 0x30, 0x6f],
  [0x2a, 0x40, 0x6c],
  [0x48, 0x52, 0x6b],
  [0x5e, 0x62, 0x6e],
  [0x72, 0x73, 0x74],
  [0x87, 0x84, 0x79],
  [0x9e, 0x96, 0x77],
  [0xb6, 0xa9, 0x71],
  [0xd0, 0xbe, 0x67],
  [0xeb, 0xd4, 0x57],
  [0xff, 0xea, 0x46],
];

/** What is not live, and which part of the ramp is used for what is: on black more is lighter, on white it is darker. */
export const THEMES = {
  dark: { absent: [16, 18, 22], untouched: [27, 30, 37], free: [58, 43, 62], ramp: [0.22, 0.9] },
  light: {
    absent: [255, 255, 255],
    untouched: [236, 235, 230],
    free: [214, 203, 219],
    ramp: [0.86, 0.04],
  },
};

const mixed = (a, b, share) => a.map((from, i) => from + (b[i] - from) * share);

/** The colour at `t` of the ramp, from 0 to 1. */
export function cividis(t) {
  const at = Math.min(Math.max(t, 0), 1) * (CIVIDIS.length - 1);
  const stop = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return mixed(CIVIDIS[stop], CIVIDIS[stop + 1], at - stop);
}

/** The colour of a cell of which this share is live, above 0 up to 1. */
export function fullness(theme, share) {
  const [from, to] = THEMES[theme].ramp;
  return cividis(from + (to - from) * share);
}

/** The colour of blocks of an order: neighbours differ in lightness, too. */
export function ofOrder(theme, order) {
  const lightness = (theme === "dark" ? 0.74 : 0.68) + (order % 2 === 0 ? 0.035 : -0.035);
  return oklch(lightness, theme === "dark" ? 0.12 : 0.135, 265 - order * 11.5);
}

/** Oklab's polar form (Ottosson, 2020) in sRGB. */
function oklch(lightness, chroma, degrees) {
  const a = chroma * Math.cos(degrees * Math.PI / 180);
  const b = chroma * Math.sin(degrees * Math.PI / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const light = Math.min(Math.max(linear, 0), 1);
    return 255 * (light <= 0.0031308 ? 12.92 * light : 1.055 * light ** (1 / 2.4) - 0.055);
  });
}

/** The relative luminance of WCAG 2, from 0 to 1. */
export function luminance(colour) {
  const [r, g, b] = colour.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** The parts of a cell; lib/daemon/http/map.ts says what the bits mean. */
export function decode(cell) {
  return {
    isAbsent: cell >>> 15 === 1,
    isTouched: (cell >>> 14 & 1) === 1,
    isWhole: (cell >>> 13 & 1) === 1,
    order: (cell >>> 8 & 31) - 1,
    share: (cell & 255) === 255 ? 1 : (cell & 255) / 255,
  };
}

/** The colour of a cell; `mode` is fullness or sizes. */
export function colourOf(theme, mode, cell) {
  const { isAbsent, isTouched, order, share } = decode(cell);
  const { absent, untouched, free } = THEMES[theme];
  if (isAbsent) return absent;
  if (share === 0) return isTouched ? free : untouched;
  if (mode === "fullness") return fullness(theme, share);
  return mixed(free, ofOrder(theme, order), 0.3 + 0.7 * share);
}

export const css = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;
