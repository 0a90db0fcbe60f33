import { assertEquals } from "@std/assert";
import { splitLine } from "../../lib/client/line.ts";
import { bytesOf, quotable, textOf } from "../../lib/client/text.ts";
import { Random } from "../testing.ts";

const SEED = 5;

function* samples(): Generator<Uint8Array> {
  yield Uint8Array.from({ length: 256 }, (_, byte) => byte);
  yield new TextEncoder().encode('\ufeffgrüße 😀 "$p" \\n\0');
  const random = new Random(SEED);
  for (let i = 0; i < 200; i++) yield random.bytes(i % 9);
}

Deno.test("textOf() makes a text of any bytes, of which bytesOf() makes these bytes", () => {
  for (const bytes of samples()) assertEquals(bytesOf(textOf(bytes)), bytes, `seed ${SEED}`);
  assertEquals(textOf(new TextEncoder().encode("grüße 😀")), "grüße 😀");
});

Deno.test("quotable() makes plain text of any bytes, which double quotes turn into these bytes", () => {
  for (const bytes of samples()) {
    const text = quotable(bytes);
    assertEquals(/^[ -~]*$/.test(text), true);
    const [word] = splitLine(`"${text}"`, new Map());
    assertEquals(bytesOf(word!.text), bytes, `seed ${SEED}: ${text}`);
  }
  assertEquals(quotable(new TextEncoder().encode('é"$\\A\n')), '\\xc3\\xa9\\"\\$\\\\A\\x0a');
});
