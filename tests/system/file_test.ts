/** Files by libc, where that may be called. */

import { assertEquals, assertThrows } from "@std/assert";
import { File, FileError } from "../../lib/system/file.ts";
import { openLibc, Unavailable } from "../../lib/system/libc.ts";

/** Why libc cannot be called here, for the end of a test's name; "" if it can. */
function whyNoLibc(): string {
  try {
    openLibc({}).close();
    return "";
  } catch (error) {
    if (error instanceof Unavailable) return ` (${error.message})`;
    throw error;
  }
}
const noLibc = whyNoLibc();

Deno.test({
  name: "nextData() tells the end of a file from a file that cannot be asked" + noLibc,
  ignore: noLibc !== "",
  sanitizeResources: false, // libc stays open for the life of the process
  fn() {
    const file = File.open(new URL(import.meta.url).pathname, "read");
    const { bytes } = file.status();
    assertEquals(file.nextData(0)?.[0], 0);
    assertEquals(file.nextData(bytes), undefined);
    file.close();
    assertThrows(() => new File(-1).nextData(0), FileError);
  },
});
