import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { SOURCE_BYTES, writeSource } from "../../lib/system/address.ts";
import { KeyedHash, newDigest } from "../../lib/system/hash.ts";

const KEYS = 256;
/** Places of the smallest table; two words of no relation share one in one case of so many. */
const PLACES = 64;
const MOST = KEYS / 8;

function place(hash: KeyedHash, hostname: string): number {
  const source = new DataView(new ArrayBuffer(SOURCE_BYTES));
  writeSource(source, 0, hostname, 40000);
  return hash.address(source, 0) & (PLACES - 1);
}

Deno.test("address() lets nobody choose an address that shares a place with another's", () => {
  const pairs = [
    ["192.0.2.1", "64.0.2.1"],
    ["192.0.2.1", "200.0.2.1"],
    ["192.0.2.1", "192.0.2.2"],
    ["2001:db8::1", "2001:db8:8000:0:8001::1"],
    ["2001:db8::1", "2001:db8::8000:0:8001:1"],
    ["2001:db8::1", "2001:db8::8000:0:8004:1"],
  ] as const;
  for (const [one, other] of pairs) {
    let shared = 0;
    for (let i = 0; i < KEYS; i++) {
      const hash = new KeyedHash();
      if (place(hash, one) === place(hash, other)) shared++;
    }
    assert(shared < MOST, `${one} and ${other} share a place with ${shared} of ${KEYS} keys`);
  }
});

Deno.test("mix() lets no word undo what the one before it changed, whatever the key", () => {
  for (let bit = 0; bit < 32; bit++) {
    for (let shift = 0; shift < 32; shift++) {
      const first = 1 << bit;
      const second = shift === 0 ? first : first ^ first >>> shift;
      let same = 0;
      for (let i = 0; i < KEYS; i++) {
        const hash = new KeyedHash();
        const one = hash.mix(hash.mix(hash.seed, 0), 0);
        if (one === hash.mix(hash.mix(hash.seed, first), second)) same++;
      }
      assert(same < MOST, `${first} and ${second}: ${same} of ${KEYS} keys`);
    }
  }
});

Deno.test("newDigest() tells texts apart by every bit, their length and the seed, not by their place", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const bytes = new Uint8Array(memory.buffer);
  const digest = newDigest(memory);
  for (let length = 0; length < 100; length++) {
    const text = Uint8Array.from({ length }, (_, i) => i * 7);
    bytes.fill(0xff);
    bytes.set(text, 1);
    bytes.set(text, 513);
    const hash = digest(1, length, length);
    assertEquals(digest(513, length, length), hash);
    assertNotEquals(digest(1, length, length + 1), hash);
    assertNotEquals(digest(1, length + 1, length), hash);
    for (let bit = 0; bit < 8 * length; bit++) {
      bytes[1 + (bit >>> 3)]! ^= 1 << (bit & 7);
      assertNotEquals(digest(1, length, length), hash, `bit ${bit} of ${length} bytes`);
      bytes[1 + (bit >>> 3)]! ^= 1 << (bit & 7);
    }
  }
});

Deno.test("newDigest() has a secret: no two of them agree", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const digests = Array.from({ length: 16 }, () => newDigest(memory)(0, 100, 0));
  assertEquals(new Set(digests).size, digests.length);
});
