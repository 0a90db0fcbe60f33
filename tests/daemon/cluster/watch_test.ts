/** What an operator is told of an owner, and when. */

import { assertEquals } from "@std/assert";
import type { LogEvent } from "../../../lib/daemon/log.ts";
import { Watch } from "../../../lib/daemon/cluster/watch.ts";

/** A watch over what the test says, and what it has told. */
function newWatch() {
  const owner = { underWay: 0 };
  const range = { number: 7, reason: "", logBytes: 0, snapshotBytes: 0 };
  const lease = { holds: true };
  const told: string[] = [];
  const say = ({ level = "info", msg }: LogEvent) => void told.push(`${level} ${msg}`);
  return { owner, range, lease, told, watch: new Watch({ owner, range, lease, trim: 100, say }) };
}

Deno.test("Watch tells once that a batch waits for more than a second, and that it no longer does", () => {
  const { owner, told, watch } = newWatch();
  owner.underWay = 1;
  watch.look(0);
  watch.look(1000);
  owner.underWay = 2; // another one: the cluster is slow, but takes them
  watch.look(1500);
  watch.look(2500);
  assertEquals(told, []);
  watch.look(2501);
  watch.look(9000);
  assertEquals(told, ["error stalled"]);
  owner.underWay = 0;
  watch.look(9250);
  assertEquals(told, ["error stalled", "info resumed"]);
});

Deno.test("Watch tells of a lease that is not renewed, though nothing waits to be appended", () => {
  const { lease, told, watch } = newWatch();
  lease.holds = false;
  watch.look(0);
  watch.look(1001);
  assertEquals(told, ["error stalled"]);
  lease.holds = true;
  watch.look(1250);
  assertEquals(told, ["error stalled", "info resumed"]);
});

Deno.test("Watch tells of a log that nobody cuts off, at each doubling, and of the next one anew", () => {
  const { range, told, watch } = newWatch();
  const warningsAt = (logBytes: number, snapshotBytes = 0) => {
    Object.assign(range, { logBytes, snapshotBytes });
    watch.look(0);
    return told.splice(0).length;
  };
  assertEquals([400, 401, 802, 803, 1606, 1607].map((bytes) => warningsAt(bytes)), [
    0,
    1,
    0,
    1,
    0,
    1,
  ]);
  assertEquals([warningsAt(0), warningsAt(401)], [0, 1]);
  assertEquals([warningsAt(0), warningsAt(4000, 1000), warningsAt(4001, 1000)], [0, 0, 1]);
});
