/** Which word somebody may have meant. */

/** The known word that a misspelt one is nearest to: at most two slips away, and less than half of it. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const most = Math.min(2, Math.ceil(word.length / 2) - 1);
  const ranked = known
    // However long the word, this is soon done: no more slips than letters too many, or too few.
    .filter((candidate) => Math.abs(candidate.length - word.length) <= most)
    .map((candidate) => ({
      candidate,
      slips: distance(word.toLowerCase(), candidate.toLowerCase()),
    }))
    .filter(({ slips }) => slips <= most)
    .sort((a, b) => a.slips - b.slips);
  return ranked[0]?.candidate;
}

/** `: did you mean malloc?`, for the end of a message; empty if no known word is near. */
export function didYouMean(word: string, known: readonly string[], prefix = ""): string {
  const meant = nearest(word, known);
  return meant === undefined ? "" : `: did you mean ${prefix}${meant}?`;
}

/** Letters missing, added, wrong, or two swapped (optimal string alignment; Damerau, CACM 1964). */
function distance(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)];
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    const above = rows[i - 1]!;
    for (let j = 1; j <= b.length; j++) {
      const wrong = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min(above[j]! + 1, row[j - 1]! + 1, above[j - 1]! + wrong);
      const isSwap = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (isSwap) row[j] = Math.min(row[j]!, rows[i - 2]![j - 2]! + 1);
    }
    rows.push(row);
  }
  return rows[a.length]![b.length]!;
}
