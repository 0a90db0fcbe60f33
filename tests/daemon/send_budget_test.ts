import { assert, assertEquals } from "@std/assert";
import { SendBudget, UNPROVEN_BYTES } from "../../lib/daemon/engines/send_budget.ts";
import { MAX_DATAGRAM } from "../../lib/protocol/wire.ts";
import { writeSource } from "../../lib/system/address.ts";

const SMALL = 24;
const SOURCE = 0;

/** A budget whose clock the test moves. */
class Bench {
  readonly clock = new Int32Array(1);
  readonly #io = new WebAssembly.Memory({ initial: 1 });
  readonly budget = new SendBudget(this.#io, this.clock);

  /** Whether a reply may go to host number `host` of a network. */
  send(length: number, host = 1): boolean {
    writeSource(new DataView(this.#io.buffer), SOURCE, `192.0.2.${host}`, 5000);
    return this.budget.admits(SOURCE, length);
  }

  /** Bytes of replies to many hosts that may go now, of so many tries. */
  flood(length: number, tries = 10_000): number {
    let bytes = 0;
    for (let i = 0; i < tries; i++) if (this.send(length, 1 + i % 250)) bytes += length;
    return bytes;
  }

  /** Fills the buffer, and lets a reply wait for long. */
  press(): void {
    this.flood(1000);
    this.budget.noteWait(3000, 1);
    this.clock[0]! += 3;
  }

  /** Seconds until a flood each second is not held back any more. */
  secondsHeld(): number {
    const start = this.clock[0]!;
    while (this.flood(1000, 100) < 100_000) this.clock[0]!++;
    return this.clock[0]! - start;
  }
}

Deno.test("SendBudget holds nobody back who has not kept others waiting", () => {
  const bench = new Bench();
  for (let second = 0; second < 10; second++) {
    assertEquals(bench.flood(1000), 10_000_000);
    assert(bench.budget.isExceeded);
    for (let i = 0; i < 10_000; i++) bench.budget.noteWait(0.1, 1);
    bench.clock[0]!++;
  }
});

Deno.test("SendBudget lets half a send buffer go in any 3 seconds when a reply has had to wait", () => {
  for (const length of [0, SMALL, 1000, 16_384]) {
    const bench = new Bench();
    bench.press();
    assertEquals(bench.flood(length), 0, "what was sent before waits still");
    bench.clock[0]! += 1;
    const counts: number[] = [];
    for (let second = 0; second < 16; second++) {
      let count = 0;
      for (let i = 0; i < 1000; i++) if (bench.send(length, 1 + i % 250)) count++;
      counts.push(count);
      bench.clock[0]!++;
    }
    const cost = length + 768 * Math.ceil((length + 1) / 1400);
    for (let i = 0; i + 3 < counts.length; i++) {
      const sum = counts.slice(i, i + 4).reduce((sum, count) => sum + count);
      assertEquals(sum, Math.floor(UNPROVEN_BYTES / cost), `${length} bytes, second ${i}`);
    }
  }
});

Deno.test("SendBudget has room for a reply of any length, and lets no address have all", () => {
  const bench = new Bench();
  bench.press();
  bench.clock[0]! += 4;
  assert(bench.send(MAX_DATAGRAM));
  assert(!bench.send(MAX_DATAGRAM, 2));
  bench.clock[0]! += 4;
  let own = 0;
  for (let i = 0; i < 1000; i++) if (bench.send(SMALL, 1)) own++;
  assertEquals(own, Math.floor(UNPROVEN_BYTES / 2 / (SMALL + 768)));
  assert(bench.send(SMALL, 2));
});

Deno.test("SendBudget holds back for longer when the pressure returns, and for less when it has not", () => {
  const bench = new Bench();
  const held = Array.from({ length: 8 }, () => {
    bench.press();
    return bench.secondsHeld() + 3;
  });
  assertEquals(held, [32, 64, 128, 256, 512, 1024, 1920, 1920]);
  bench.clock[0]! += 1920;
  bench.press();
  assertEquals(bench.secondsHeld() + 3, 32);
});

Deno.test("SendBudget holds back no more when nobody has wanted more for a quarter of the time", () => {
  const bench = new Bench();
  bench.press();
  for (let second = 0; second < 9; second++) {
    assert(bench.send(SMALL) === second > 0);
    bench.clock[0]!++;
  }
  assertEquals(bench.flood(1000, 1000), 1_000_000);
});

Deno.test("SendBudget counts short waits together where somebody has proven his address", () => {
  for (const proven of [0, 1]) {
    const bench = new Bench();
    bench.flood(1000);
    if (proven === 1) bench.budget.noteWait(0, 1);
    for (let i = 0; i < 10; i++) bench.budget.noteWait(50, 0);
    assertEquals(bench.flood(1000) === 0, proven === 1);
  }
});
