/** Sizes and durations as a person types them and reads them. */

const UNITS: Readonly<Record<string, number>> = { "": 1, B: 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** Bytes of `64MiB`, `1.5GiB`, `4096`; undefined if it is none, or not a whole number of bytes. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(?:([KMG])(?:iB)?|B)?$/i.exec(text);
  if (match === null) return undefined;
  const bytes = Number(match[1]) * UNITS[(match[2] ?? "").toUpperCase()]!;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** The twin of `parseSize`: the largest unit that needs at most two decimals, else bytes. */
export function formatSize(bytes: number): string {
  for (const [unit, factor] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]] as const) {
    const number = bytes / factor;
    if (number >= 1 && number * 100 % 1 === 0) return `${number}${unit}`;
  }
  return `${bytes}`;
}

/** Milliseconds of `1s`, `1.5s`, `250ms`; a bare number is seconds, as sleep(1) has it. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s)?$/.exec(text);
  if (match === null) return undefined;
  return Number(match[1]) * (match[2] === "ms" ? 1 : 1000);
}
