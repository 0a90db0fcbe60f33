import { assert, assertEquals } from "@std/assert";
import { HalfSipHash, KEY_SECONDS, Tokens } from "../../lib/daemon/token.ts";
import { writeSource } from "../../lib/system/address.ts";

/** vectors_hsip64 of the reference implementation, https://github.com/veorq/SipHash, for whole words. */
const VECTORS: Readonly<Record<number, string>> = {
  0: "218d1f59b9b83cc8",
  4: "d5e78a175be52ea1",
  8: "edfee820bce4858c",
  12: "7bc71f9faef5c799",
  16: "7336aad25f7bf3b5",
  20: "1bf52b0a6feea7db",
  24: "70741045ae3fa6f1",
  28: "2d925ffb1e0016b5",
  32: "28709d46d811626c",
};

Deno.test("HalfSipHash gives the reference's output for whole words", () => {
  const input = Uint8Array.from({ length: 64 }, (_, i) => i);
  const key = new Int32Array(input.slice(0, 8).buffer);
  const mac = new HalfSipHash();
  for (const [length, expected] of Object.entries(VECTORS)) {
    mac.hash(key, new DataView(input.buffer), 0, Number(length));
    const output = new DataView(new ArrayBuffer(8));
    output.setInt32(0, mac.first, true);
    output.setInt32(4, mac.second, true);
    assertEquals(new Uint8Array(output.buffer).toHex(), expected, `${length} bytes`);
  }
});

const SOURCE = 0;
const TOKEN = 64;

class Harness {
  readonly clock = new Int32Array(1);
  readonly io = new WebAssembly.Memory({ initial: 1 });
  readonly view = new DataView(this.io.buffer);
  readonly tokens = new Tokens(this.io, this.clock);

  give(hostname: string, port = 40000): bigint {
    writeSource(this.view, SOURCE, hostname, port);
    this.tokens.write(SOURCE, TOKEN);
    return this.view.getBigUint64(TOKEN);
  }

  accepts(token: bigint, hostname: string, port = 40000): boolean {
    writeSource(this.view, SOURCE, hostname, port);
    this.view.setBigUint64(TOKEN, token);
    return this.tokens.accepts(SOURCE, TOKEN);
  }
}

Deno.test("Tokens accepts a token from the address and port that it was given to, and no other", () => {
  const harness = new Harness();
  for (const hostname of ["192.0.2.1", "2001:db8::1"]) {
    const token = harness.give(hostname);
    assert(token !== 0n);
    assert(harness.accepts(token, hostname), hostname);
    assert(!harness.accepts(token, hostname, 40001));
    assert(!harness.accepts(token, "192.0.2.2"));
    assert(!harness.accepts(token, "2001:db8::2"));
    for (let bit = 0n; bit < 64n; bit++) assert(!harness.accepts(token ^ 1n << bit, hostname));
    assert(!harness.accepts(0n, hostname));
    assert(!new Harness().accepts(token, hostname), "another daemon has other keys");
  }
});

Deno.test("Tokens accepts a token for one to two lifetimes of a key", () => {
  for (const quiet of [false, true]) {
    const harness = new Harness();
    const token = harness.give("192.0.2.1");
    harness.clock[0] = KEY_SECONDS;
    if (!quiet) assert(harness.give("192.0.2.1") !== token, "a new key");
    assert(harness.accepts(token, "192.0.2.1"));
    harness.clock[0] = 2 * KEY_SECONDS;
    assert(!harness.accepts(token, "192.0.2.1"));
  }
  for (const asked of [undefined, 2 * KEY_SECONDS - 1]) {
    const harness = new Harness();
    const token = harness.give("192.0.2.1");
    if (asked !== undefined) {
      harness.clock[0] = asked;
      assert(harness.accepts(token, "192.0.2.1"));
    }
    harness.clock[0] = 2 * KEY_SECONDS;
    assert(!harness.accepts(token, "192.0.2.1"), `asked for at ${asked} in between`);
  }
});
