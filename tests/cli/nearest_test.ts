import { assertEquals } from "@std/assert";
import { nearest } from "../../lib/cli/nearest.ts";

const COMMANDS = ["malloc", "calloc", "realloc", "free", "read", "write", "cas", "add"];

Deno.test("nearest() finds the word that was misspelt by a letter or two", () => {
  for (
    const [word, meant] of [
      ["mallc", "malloc"],
      ["mallok", "malloc"],
      ["MALLOC", "malloc"],
      ["raed", "read"],
      ["wrtie", "write"],
      ["relloc", "realloc"],
    ]
  ) assertEquals(nearest(word!, COMMANDS), meant, word);
});

Deno.test("nearest() finds nothing for a word that is like none", () => {
  for (const word of ["", "x", "ab", "shutdown", "hello"]) {
    assertEquals(nearest(word, COMMANDS), undefined, word);
  }
});

Deno.test("nearest() is soon done with a word of a million letters", () => {
  assertEquals(nearest("malloc".repeat(1_000_000), COMMANDS), undefined);
});
