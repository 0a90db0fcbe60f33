import { assert, assertEquals, assertThrows } from "@std/assert";
import { Admission, ADMITTED, parseCidr } from "../../lib/daemon/admission.ts";
import { SOURCE_BYTES, sourceHead, writeSource } from "../../lib/system/address.ts";

Deno.test("parseCidr() refuses what is no CIDR block", () => {
  const wrong = [
    "",
    "/",
    "/8",
    "10.0.0.0/",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/8/8",
    "::/129",
  ];
  for (const text of [...wrong, "10.0.0/8", "10.0.0.0/a", "10.0.0.0/1000", "10.0.0.0 /8", "any"]) {
    assertEquals(parseCidr(text), undefined, JSON.stringify(text));
  }
  assertThrows(() => new Admission(["any"], 1), TypeError, "Cannot parse CIDR block: any");
});

const OWN_PORT = 8081;

function admits(allow: readonly string[] | undefined, hostname: string, port = 40000): boolean {
  const bytes = new DataView(new ArrayBuffer(SOURCE_BYTES + 4));
  writeSource(bytes, 4, hostname, port);
  return new Admission(allow, OWN_PORT).drops(sourceHead(bytes, 4), bytes, 4) === ADMITTED;
}

Deno.test("Admission admits exactly the senders in its CIDR blocks", () => {
  const blocks: [block: string, inside: string[], outside: string[]][] = [
    ["10.1.2.3", ["10.1.2.3"], ["10.1.2.2", "10.1.2.4", "::a01:203", "11.1.2.3"]],
    ["10.1.2.3/32", ["10.1.2.3"], ["10.1.2.2"]],
    ["10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "::1"]],
    ["10.1.2.3/8", ["10.0.0.0"], ["11.0.0.0"]], // the bits after the prefix don't count
    ["192.168.4.0/23", ["192.168.4.0", "192.168.5.255"], ["192.168.3.255", "192.168.6.0"]],
    ["128.0.0.0/1", ["128.0.0.0", "255.255.255.255"], ["127.255.255.255"]],
    ["0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::1", "::", "::fffe:1.2.3.4"]],
    ["::1", ["::1"], ["::", "::2", "0.0.0.1", "127.0.0.1"]],
    ["::/0", ["::1", "ffff::", "1.2.3.4"], []],
    ["2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db9::", "1.2.3.4"]],
    ["2001:db8::/33", ["2001:db8:7fff::"], ["2001:db8:8000::"]],
    ["2001:db8::/127", ["2001:db8::", "2001:db8::1"], ["2001:db8::2", "2001:db8:0:0:1::"]],
    ["::ffff:10.0.0.0/104", ["10.9.9.9"], ["11.0.0.0"]],
  ];
  for (const [block, inside, outside] of blocks) {
    for (const hostname of inside) assert(admits([block], hostname), `${hostname} in ${block}`);
    for (const hostname of outside) assert(!admits([block], hostname), `${hostname} in ${block}`);
  }
});

Deno.test("Admission takes an IPv4 sender the same whichever socket it came through", () => {
  for (const hostname of ["10.1.2.3", "::ffff:10.1.2.3"]) {
    assert(admits(["10.0.0.0/8"], hostname), hostname);
    assert(!admits(["11.0.0.0/8"], hostname), hostname);
  }
});

Deno.test("Admission admits who is in any of several blocks, nobody without any", () => {
  const allow = ["127.0.0.0/8", "::1", "192.0.2.1"];
  for (const hostname of ["127.1.1.1", "::1", "192.0.2.1"]) assert(admits(allow, hostname));
  assert(!admits(allow, "192.0.2.2"));
  assert(!admits([], "127.0.0.1"));
});

Deno.test("Admission drops whoever sends from the daemon's own port number", () => {
  for (const allow of [undefined, ["0.0.0.0/0", "::/0"]]) {
    for (const hostname of ["127.0.0.1", "10.1.2.3", "::1"]) {
      assert(!admits(allow, hostname, OWN_PORT), hostname);
      assert(admits(allow, hostname, OWN_PORT + 1), hostname);
      assert(admits(allow, hostname, 37151), "the bytes of the port in the other order");
    }
  }
});
