import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";

async function deno(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", ...args],
    cwd: new URL("../../", import.meta.url),
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("bench/compare measures what is installed and prints tables", async () => {
  const { code, stdout, stderr } = await deno("-P=bench", "bench/compare/main.ts", "--smoke");
  assertEquals(code, 0, stderr);
  assertMatch(stdout, /^Comparison/);
  assertMatch(stdout, /^32 in flight +[\d,]+/m);
});

Deno.test("mallocd-client refuses an option of another command", async () => {
  const { code, stderr } = await deno("-P=client", "client.ts", "malloc", "5", "--clients", "2");
  assertEquals(code, 2);
  assertStringIncludes(stderr, "malloc takes no option --clients");
});
