/** A range of a real Redis Cluster, without daemons. */

import { assertEquals, assertRejects } from "@std/assert";
import { Follower } from "../../lib/daemon/cluster/follower.ts";
import { Lease } from "../../lib/daemon/cluster/lease.ts";
import { Membership } from "../../lib/daemon/cluster/membership.ts";
import { ClusterError } from "../../lib/daemon/cluster/primary.ts";
import { Range } from "../../lib/daemon/cluster/range.ts";
import { newOptions } from "../testing.ts";
import { RedisCluster, whyNoRedis } from "./redis.ts";

const noRedis = await whyNoRedis();
const TERMS = { memory: 65536, strict: false, replayCache: 16 };

Deno.test({
  name:
    `of two standbys that make the same snapshot, the later leaves it; whoever finds it gone says so${noRedis}`,
  ignore: noRedis !== "",
  async fn() {
    await using redis = await RedisCluster.start();
    const nodes = redis.servers.map(({ node }) => node);
    const newRange = () => new Range({ nodes, access: {}, copies: 1, lease: 3000 }, 0);
    const [owner, one, other] = [newRange(), newRange(), newRange()];
    try {
      await owner.claim(undefined, TERMS, { hostname: "127.0.0.1", port: 1 }, new Lease(3000));
      const chunks = Array.from({ length: 10 }, (_, i) => Uint8Array.of(i, 7));
      for (let number = 1; number <= 9; number++) await owner.append(number, Uint8Array.of(number));
      for (const [before, position] of [[0, 4], [4, 8]] as const) {
        assertEquals(await one.trim(before, position, chunks), true);
        assertEquals(await other.trim(before, position, chunks.toReversed()), false);
        const { primary } = await redis.shardOf(0);
        const key = `mallocd:{0}:snapshot:${position}`;
        assertEquals(await redis.call(primary, "PTTL", key), -1, "it does not expire");
        for (const [i, chunk] of chunks.entries()) {
          assertEquals(await one.readChunk(position, i), chunk);
        }
      }
      assertEquals(await one.readChunk(4, 0), undefined, "the one before is gone");
      assertEquals((await one.read(8)).map(({ number }) => number), [9]);

      const { primary } = await redis.shardOf(0);
      await redis.call(primary, "DEL", "mallocd:{0}:snapshot:8");
      const follow = () => Follower.of(one, newOptions(TERMS), new Membership(0), 1);
      await assertRejects(follow, ClusterError, "the cluster has lost the snapshot of range 0");
    } finally {
      for (const range of [owner, one, other]) range.close();
    }
  },
});
