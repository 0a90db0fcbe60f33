import { assert } from "@std/assert";
import { Lease } from "../../../lib/daemon/cluster/lease.ts";

Deno.test("Lease holds for nine tenths of its time after it was asked for, by both clocks", () => {
  const lease = new Lease(10_000);
  assert(!lease.holds, "before it is granted");
  const { steady, wall } = lease.now();
  lease.renew({ steady, wall });
  assert(lease.holds);
  lease.renew({ steady: steady - 9001, wall });
  assert(!lease.holds, "the time that is not set is over");
  lease.renew({ steady, wall: wall - 9001 });
  assert(!lease.holds, "the time that goes on while the machine sleeps is over");
  lease.renew({ steady: steady - 5000, wall: wall - 5000 });
  assert(lease.holds);
});
