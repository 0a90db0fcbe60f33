/** What the benchmarks print with. */

/** Prints rows in columns, the first one flush left, the others flush right. */
export function printTable(rows: readonly (readonly string[])[]): void {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  for (const row of rows) {
    const cells = row.map((cell, column) =>
      column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)
    );
    console.log(cells.join("  "));
  }
}

/** 1234567 as 1,234,567. */
export function grouped(n: number): string {
  return n.toLocaleString("en");
}

/** How many times one thing is the other: 0.812, 3.45, 34.5, 3,451. */
export function ratio(times: number): string {
  return times < 100 ? times.toPrecision(3) : grouped(Math.round(times));
}
