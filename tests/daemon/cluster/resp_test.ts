/** The client of Redis against a server of this test, which says what it is told to, in pieces of any size. */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { parseNode } from "../../../lib/daemon/cluster/node.ts";
import { joinHostPort } from "../../../lib/system/address.ts";
import {
  Connection,
  ConnectionError,
  RedisError,
  type Reply,
} from "../../../lib/daemon/cluster/resp.ts";

import { socketTest } from "../../sockets.ts";
import { Random } from "../../testing.ts";

const CALL_MS = 2000;

/** Answers whatever comes with these bytes, `size` at a time, and keeps what came. */
async function withServer(
  answer: string,
  size: number,
  use: (connection: Connection, received: () => string) => Promise<void>,
) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  let received = "";
  const serving = (async () => {
    const socket = await listener.accept();
    const buffer = new Uint8Array(65536);
    const count = await socket.read(buffer);
    received = new TextDecoder().decode(buffer.subarray(0, count ?? 0));
    const bytes = new TextEncoder().encode(answer);
    for (let at = 0; at < bytes.length; at += size) {
      await socket.write(bytes.subarray(at, at + size)).catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
    while (await socket.read(buffer).catch(() => null) !== null);
    socket.close();
  })();
  const { hostname, port } = listener.addr as Deno.NetAddr;
  const connection = await Connection.open({ hostname, port }, {}, CALL_MS);
  try {
    await use(connection, () => received);
  } finally {
    connection.close();
    await serving;
    listener.close();
  }
}

const bytes = (text: string) => new TextEncoder().encode(text);

socketTest("pipeline() sends commands as arrays of strings, and bytes as they are", async () => {
  await withServer("+OK\r\n:1\r\n", 100, async (connection, received) => {
    const binary = Uint8Array.of(13, 10, 36);
    assertEquals(await connection.pipeline([["SET", "kéy", binary], ["INCR", 7]], CALL_MS), [
      "OK",
      1,
    ]);
    assertEquals(
      received(),
      "*3\r\n$3\r\nSET\r\n$4\r\nkéy\r\n$3\r\n\r\n$\r\n*2\r\n$4\r\nINCR\r\n$1\r\n7\r\n",
    );
  });
});

socketTest("pipeline() understands replies of every kind, wherever they are cut", async () => {
  const answer = "*4\r\n$5\r\na\r\nbc\r\n*-1\r\n:-12\r\n*2\r\n+x\r\n$0\r\n\r\n$-1\r\n";
  const expected: Reply[] = [[bytes("a\r\nbc"), null, -12, ["x", bytes("")]], null];
  for (const size of [1, 2, 3, 7, 100]) {
    await withServer(answer, size, async (connection) => {
      assertEquals(
        await connection.pipeline([["A"], ["B"]], CALL_MS),
        expected,
        `${size} at a time`,
      );
    });
  }
});

socketTest("pipeline() reads replies that are longer than its first buffer", async () => {
  const long = "0123456789".repeat(30_000);
  const answer = `*2\r\n$${long.length}\r\n${long}\r\n$3\r\nend\r\n`;
  await withServer(answer, 100_000, async (connection) => {
    assertEquals(await connection.call(["X"], CALL_MS), [bytes(long), bytes("end")]);
  });
});

socketTest("a refusal rejects with its code, and the connection goes on", async () => {
  await withServer("-MOVED 5 10.0.0.1:7000\r\n+OK\r\n", 100, async (connection) => {
    const error = await assertRejects(() => connection.call(["A"], CALL_MS), RedisError);
    assertEquals(error.code, "MOVED");
  });
});

socketTest("what is not answered in time, and what is no reply, ends the connection", async () => {
  await withServer("", 1, async (connection) => {
    await assertRejects(() => connection.call(["A"], 50), ConnectionError, "within 50ms");
    assertEquals(connection.isClosed, true);
    await assertRejects(() => connection.call(["A"], 50), ConnectionError);
  });
  await withServer("HTTP/1.1 400 Bad Request\r\n", 100, async (connection) => {
    await assertRejects(() => connection.call(["A"], CALL_MS), ConnectionError, "begins no reply");
  });
});

socketTest(
  "whatever a server sends is a reply, a refusal, or the end of the connection",
  async () => {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const random = new Random(seed);
    const pieces = [
      "*",
      "$",
      ":",
      "+",
      "-",
      "1",
      "-1",
      "2",
      "9",
      "x",
      "\r\n",
      "\r",
      "\n",
      "1e3",
      "0.5",
    ];
    for (let i = 0; i < 200; i++) {
      const answer = Array.from({ length: 1 + random.below(12) }, () => random.pick(pieces)).join(
        "",
      );
      await withServer(answer, 1 + random.below(9), async (connection) => {
        const outcome = await connection.call(["A"], 30).catch((error) => error);
        const isError = outcome instanceof Error;
        const isKnown = outcome instanceof RedisError || outcome instanceof ConnectionError;
        assert(!isError || isKnown, `${outcome} for ${JSON.stringify(answer)}, seed ${seed}`);
      });
    }
  },
);

Deno.test("parseNode() is the inverse of joinHostPort(), and says no to what is no node", () => {
  for (const text of ["10.0.0.1:6379", "[fd00::1]:1", "redis.example:65535", ":7000"]) {
    assertEquals(joinHostPort(parseNode(text)!), text);
  }
  for (
    const text of ["", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "a b:1", "fd00::1:x", "x:1x"]
  ) {
    assertEquals(parseNode(text), undefined, text);
  }
});
