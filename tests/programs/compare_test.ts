import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { BENCH_LOCK, whyNoPackages } from "./programs.ts";

async function deno(...args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", ...args],
    cwd: new URL("../../", import.meta.url),
  }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const PROGRAM = "bench/compare/main.ts";
const noPackages = await whyNoPackages(PROGRAM);

Deno.test({
  name: `bench/compare measures what is installed and prints tables${noPackages}`,
  ignore: noPackages !== "",
  async fn() {
    const words = ["--cached-only", BENCH_LOCK, "-P=bench", PROGRAM, "--smoke"];
    const { code, stdout, stderr } = await deno(...words);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^Comparison/);
    assertMatch(stdout, /^32 in flight +[\d,]+/m);
  },
});

Deno.test("mallocd-client refuses an option of another command", async () => {
  const { code, stderr } = await deno("-P=client", "client.ts", "malloc", "5", "--clients", "2");
  assertEquals(code, 2);
  assertStringIncludes(stderr, "malloc takes no option --clients");
});
