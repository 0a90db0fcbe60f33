import { assert, assertEquals, assertThrows } from "@std/assert";
import {
  isLoopback,
  isLoopbackSource,
  parseAddress,
  portIn,
  SOURCE_BYTES,
  sourceHead,
  unmap,
  writeSource,
} from "../../lib/system/address.ts";

/** The four words of an address in hex. */
function hexOf(text: string): string | undefined {
  return parseAddress(text)?.map((part) => part.toString(16).padStart(8, "0")).join(" ");
}

Deno.test("parseAddress() reads every form of an address", () => {
  const forms: Record<string, string> = {
    "0.0.0.0": "00000000 00000000 0000ffff 00000000",
    "127.0.0.1": "00000000 00000000 0000ffff 7f000001",
    "255.255.255.255": "00000000 00000000 0000ffff ffffffff",
    "::": "00000000 00000000 00000000 00000000",
    "::1": "00000000 00000000 00000000 00000001",
    "1::": "00010000 00000000 00000000 00000000",
    "fe80::1%eth0": "fe800000 00000000 00000000 00000001",
    "2001:db8::ff00:42:8329": "20010db8 00000000 0000ff00 00428329",
    "2001:DB8:0:0:0:FF00:0042:8329": "20010db8 00000000 0000ff00 00428329",
    "1:2:3:4:5:6:7:8": "00010002 00030004 00050006 00070008",
    "1:2:3:4:5:6:7::": "00010002 00030004 00050006 00070000",
    "::2:3:4:5:6:7:8": "00000002 00030004 00050006 00070008",
    "::ffff:10.1.2.3": "00000000 00000000 0000ffff 0a010203",
    "::ffff:a01:203": "00000000 00000000 0000ffff 0a010203",
    "64:ff9b::192.0.2.33": "0064ff9b 00000000 00000000 c0000221",
    "1:2:3:4:5:6:1.2.3.4": "00010002 00030004 00050006 01020304",
  };
  for (const [text, expected] of Object.entries(forms)) assertEquals(hexOf(text), expected, text);
});

Deno.test("parseAddress() refuses what is no address", () => {
  const wrong = [
    ...["", " ", "localhost", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.-4", "1.2.3.4 "],
    ...["01.2.3.4", "1.2.3.04", "0x1.2.3.4", "1.2.3.", "a.b.c.d", "1.2.3.4:5", "%eth0"],
    ...[":", ":::", "1:2", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::"],
    ...["1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", ":1::", "1:2:3:4:5:6:7:", "[::1]", "::1/128"],
    ...["::1.2.3", "::1.2.3.256", "::1.2.3.4:5", "1.2.3.4::", "1:2:3:4:5:6:7:1.2.3.4"],
  ];
  for (const text of wrong) assertEquals(hexOf(text), undefined, JSON.stringify(text));
});

/** What writeSource leaves, in hex. */
function sourceOf(hostname: string, port: number): string {
  const bytes = new Uint8Array(SOURCE_BYTES + 8).fill(0xa5);
  writeSource(new DataView(bytes.buffer), 4, hostname, port);
  assertEquals(bytes.subarray(0, 4).toHex() + bytes.subarray(-4).toHex(), "a5".repeat(8));
  return bytes.subarray(4, -4).toHex();
}

Deno.test("writeSource() writes what the kernel would", () => {
  const address = "20010db8000000000000ff0000428329";
  assertEquals(sourceOf("127.0.0.1", 8081), "02001f917f000001" + "00".repeat(20));
  assertEquals(
    sourceOf("2001:db8::ff00:42:8329", 65535),
    "0a00ffff" + "00000000" + address + "00000000",
  );
  assertEquals(sourceOf("::ffff:1.2.3.4", 1).slice(0, 4), "0a00", "IPv6, as its socket is");
});

Deno.test("writeSource() throws on what is no address", () => {
  assertThrows(() => sourceOf("localhost", 1), TypeError, "Cannot parse address: localhost");
});

Deno.test("isLoopback() is true of what only this host can reach", () => {
  for (const name of ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1", "localhost"]) {
    assert(isLoopback(name), name);
  }
  const reachable = ["0.0.0.0", "126.255.255.255", "128.0.0.0", "::", "::2", "::7f00:1", "fe80::1"];
  for (const name of [...reachable, "::ffff:10.0.0.1", "example.com", ""]) {
    assert(!isLoopback(name), name);
  }
});

Deno.test("isLoopbackSource() says of a sender what isLoopback() says of its address", () => {
  const bytes = new DataView(new ArrayBuffer(SOURCE_BYTES));
  const near = ["127.0.0.1", "127.255.255.255", "::1", "::ffff:127.0.0.1"];
  for (
    const name of [...near, "126.0.0.1", "10.0.0.127", "::", "::2", "fe80::1", "::ffff:1.2.3.4"]
  ) {
    for (const port of [1, 127, 0x7f00, 65535]) {
      writeSource(bytes, 0, name, port);
      const head = sourceHead(bytes, 0);
      assertEquals(portIn(head), port, name);
      assertEquals(isLoopbackSource(head, bytes, 0), isLoopback(name), name);
    }
  }
});

Deno.test("unmap() makes IPv4 addresses of mapped ones, and leaves the others", () => {
  assertEquals(unmap("::ffff:127.0.0.1"), "127.0.0.1");
  assertEquals(unmap("::FFFF:c0a8:ff"), "192.168.0.255");
  for (const other of ["127.0.0.1", "::1", "::127.0.0.1", "fe80::1%eth0", "localhost", ":::"]) {
    assertEquals(unmap(other), other);
  }
});
