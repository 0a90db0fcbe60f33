/** docs/vectors.json against a daemon in a cluster, over its socket. */

import { Mallocd } from "../programs/programs.ts";
import { askOver, CLUSTER_VECTORS, OTHER, pass, SIZE, vectorsFor } from "../vectors.ts";
import { RedisCluster, whyNoRedis } from "./redis.ts";

const noRedis = await whyNoRedis();

Deno.test({
  name: `docs/vectors.json is what a daemon in a cluster does over a socket${noRedis}`,
  ignore: noRedis !== "",
  async fn() {
    await using redis = await RedisCluster.start();
    const { range, hostname, port } = OTHER;
    const holder = await redis.primaryOf("mallocd:owners");
    await redis.call(holder, "HSET", "mallocd:owners", range, `${hostname}:${port}`);
    const args = ["--cluster", redis.nodes, "--range", "0", "--memory", `${SIZE}`];
    await using daemon = await Mallocd.start(args);
    const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    try {
      const address = { hostname: "127.0.0.1", port: daemon.port };
      // What hello tells in a session is longer here.
      const common = vectorsFor(false).filter((vector) =>
        !JSON.stringify(vector).includes(" 83 07 0000000000000038")
      );
      for (const vector of [...common, ...CLUSTER_VECTORS]) {
        await pass(vector, (request) => askOver(socket, address, request));
      }
    } finally {
      socket.close();
    }
  },
});
