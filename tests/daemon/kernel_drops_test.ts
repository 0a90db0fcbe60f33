import { assertEquals } from "@std/assert";
import { dropsIn } from "../../lib/daemon/kernel_drops.ts";

const UDP = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  \
timeout inode ref pointer drops            
  536: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1957953 2 000000007567bf87 0       
  642: 0200007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1972779 2 00000000cd272784 37       
  643: 0200007F:1F92 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1972780 2 00000000cd272785 38       
`;
const UDP6 = `   sl  local_address                         remote_address
  101: B80D0120000000000000000001000000:1F91 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 7 2 0 9
  102: 00000000000000000000000001000000:1F91 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 8 2 0 12
`;

Deno.test("dropsIn() finds an address and a port in the kernel's table", () => {
  assertEquals(dropsIn(UDP, { hostname: "127.0.0.2", port: 8081 }), 37);
  assertEquals(dropsIn(UDP, { hostname: "127.0.0.2", port: 8082 }), 38);
  assertEquals(dropsIn(UDP, { hostname: "127.0.0.1", port: 8081 }), 0);
  assertEquals(dropsIn(UDP6, { hostname: "::1", port: 8081 }), 12);
  assertEquals(dropsIn(UDP6, { hostname: "2001:db8::1", port: 8081 }), 9);
});

Deno.test("dropsIn() knows nothing of what is not in the table, nor of names", () => {
  for (const hostname of ["127.0.0.3", "::2", "heap.example"]) {
    assertEquals(dropsIn(UDP, { hostname, port: 8081 }), undefined, hostname);
    assertEquals(dropsIn("", { hostname, port: 8081 }), undefined, hostname);
  }
});
