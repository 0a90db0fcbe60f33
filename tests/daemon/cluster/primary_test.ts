/** What becomes of what a Redis refuses, be it for a while: there is not one of each kind where tests run. */

import { assertEquals } from "@std/assert";
import { meaningOf, Primary } from "../../../lib/daemon/cluster/primary.ts";
import { type Connection, RedisError } from "../../../lib/daemon/cluster/resp.ts";
import { socketTest } from "../../sockets.ts";

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

/** A server that answers each command as `answer` says, and keeps the commands' names. */
function serve(answer: (name: string) => string) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const names: string[] = [];
  const serving = (async () => {
    using socket = await listener.accept();
    const buffer = new Uint8Array(4096);
    let text = "";
    for (
      let count: number | null;
      (count = await socket.read(buffer).catch(() => null)) !== null;
    ) {
      text += new TextDecoder().decode(buffer.subarray(0, count));
      // A command whose last word is `end`, or one of those by which a primary is found.
      for (let match; (match = /^.*?\r\n(\w+)\r\n.*?(end|SLOTS|key)\r\n/s.exec(text)) !== null;) {
        text = text.slice(match[0].length);
        names.push(match[1]!);
        await socket.write(new TextEncoder().encode(answer(match[1]!)));
      }
    }
  })();
  const { hostname, port } = listener.addr as Deno.NetAddr;
  const close = async () => {
    await serving;
    listener.close();
  };
  return { names, node: { hostname, port }, close };
}

socketTest(
  "Primary.ask() carries out nothing on a new connection before recover has succeeded",
  async () => {
    let refusals = 2;
    const server = serve((name) => {
      if (name === "CLUSTER") return "*0\r\n";
      return name === "MEND" && refusals-- > 0 ? "-NOREPLICAS not enough\r\n" : "+OK\r\n";
    });
    const primary = new Primary([server.node], {}, "key");
    const recover = async (connection: Connection) => {
      await connection.call(["MEND", "end"], 1000);
    };
    for (let i = 0; i < 2; i++) await primary.ask([["WRITE", "end"]], { recover });
    primary.close();
    await server.close();
    assertEquals(server.names.slice(2), ["MEND", "MEND", "MEND", "WRITE", "WRITE"]);
  },
);
