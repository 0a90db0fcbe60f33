/** What an operator is told of a Redis that refuses: there is not one of each kind where tests run. */

import { assertEquals } from "@std/assert";
import { meaningOf } from "../../../lib/daemon/cluster/primary.ts";
import { RedisError } from "../../../lib/daemon/cluster/resp.ts";

Deno.test("meaningOf() tells who is too old, in no cluster, not allowed, or waits for somebody", () => {
  const told = (message: string) => {
    const { message: problem, hint } = meaningOf(new RedisError(message), "10.0.0.1:6379");
    return [problem, hint];
  };
  const old = "ERR unknown command `FCALL`, with args beginning with: `mallocd1_renew`";
  assertEquals(told(old), [
    `10.0.0.1:6379 is too old: ${old}`,
    "Redis 7 or later, or Valkey",
  ]);
  assertEquals(told("ERR This instance has cluster support disabled"), [
    "10.0.0.1:6379 is a Redis, but no cluster",
    "a Redis or Valkey with cluster-enabled yes",
  ]);
  const refused = "NOPERM this user has no permissions to run the 'fcall' command";
  assertEquals(told(refused), [
    `10.0.0.1:6379 refuses: ${refused}`,
    "--cluster-user FILE with a user who may do it; docs/cluster.md lists what it takes",
  ]);
  for (const passing of ["CLUSTERDOWN The cluster is down", "MISCONF Redis is configured to"]) {
    assertEquals(told(passing), [
      `10.0.0.1:6379 refuses: ${passing}`,
      "redis-cli --cluster check, which says what is wrong with it",
    ]);
  }
});
