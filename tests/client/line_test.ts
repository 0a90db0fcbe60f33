import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/cli/flags.ts";
import { splitLine } from "../../lib/client/line.ts";

const VARIABLES = new Map([["p", "0xc420000010"], ["n", "16"], ["text", "hello"]]);

function textOf(line: string): string[] {
  return splitLine(line, VARIABLES).map(({ text }) => text);
}

Deno.test("splitLine() splits at blanks, and keeps them in quotes", () => {
  assertEquals(textOf("  read $p 5 "), ["read", "0xc420000010", "5"]);
  assertEquals(textOf(`write $p "a  b" '$p' x"y z"`), [
    "write",
    "0xc420000010",
    "a  b",
    "$p",
    "xy z",
  ]);
  assertEquals(textOf("a $ b"), ["a", "$", "b"]);
  assertEquals(textOf(""), []);
});

Deno.test("splitLine() adds to what a variable holds, in the base that it holds it in", () => {
  assertEquals(textOf("$p+16 $p-0x10 $n+$n-1 $n+1KiB"), [
    "0xc420000020",
    "0xc420000000",
    "31",
    "1040",
  ]);
  assertEquals(textOf(`"$p+16" '$p+16'`), ["0xc420000010+16", "$p+16"]);
});

Deno.test("splitLine() refuses sums that are no number, negative or beyond 64 bits", () => {
  for (const line of ["$text+1", "$p+hello", "$p+$text"]) {
    assertThrows(() => textOf(line), UsageError, "is no number to calculate with");
  }
  assertThrows(() => textOf("$n-17"), UsageError, "$n-17 is -1");
  assertThrows(() => textOf("$p+18446744073709551615"), UsageError, "$p+18446744073709551615 is");
  assertThrows(() => textOf("$n+$none"), UsageError, "$none is not set");
});

Deno.test("splitLine() knows escapes in double quotes, and says which there are", () => {
  assertEquals(textOf('"\\n\\t\\r\\0\\\\\\"\\$p \\u{1f600}$n"'), ['\n\t\r\0\\"$p \u{1f600}16']);
  for (const line of ['"\\x"', '"\\x4"', '"\\u{110000}"', '"\\u{d800}"', '"\\u{}"']) {
    assertThrows(() => textOf(line), UsageError, "there is no escape");
  }
  assertEquals(textOf("'\\n'"), ["\\n"]);
});

Deno.test("splitLine() refuses a quote that nothing closes", () => {
  assertThrows(() => textOf('malloc "5'), UsageError, 'no closing "');
  assertThrows(() => textOf("it's"), UsageError, "no closing '");
});
