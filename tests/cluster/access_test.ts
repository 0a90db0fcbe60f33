/** A cluster that speaks TLS and asks who is there, and what is told when one may not in. */

import { assertEquals, assertMatch } from "@std/assert";
import { failed, MALLOCD, Mallocd, run } from "../programs/programs.ts";
import { Connection } from "../../lib/daemon/cluster/resp.ts";
import { RedisCluster, SERVER, whyNoRedis } from "./redis.ts";

const noRedis = await whyNoRedis();
const document = await Deno.readTextFile(new URL("../../docs/cluster.md", import.meta.url));

/** What docs/cluster.md gives to the user of the daemons. */
const RULES = /^ {4}user mallocd on (.*)$/m.exec(document)![1]!.split(" ");
const PASSWORD = "s3cret";
const ADMIN = "another";

async function openssl(...args: string[]): Promise<void> {
  const { code, stderr } = await run("openssl", args);
  assertEquals(code, 0, stderr);
}

/** A CA, and a certificate of 127.0.0.1 that it has signed; and files for the daemon. */
async function makeFiles(folder: string): Promise<void> {
  const at = (name: string) => `${folder}/${name}`;
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  await openssl(
    ...["req", "-x509", ...key, "-subj", "/CN=test CA", "-days", "2"],
    ...["-keyout", at("ca.key"), "-out", at("ca.pem")],
  );
  await openssl(
    "req",
    ...key,
    "-subj",
    "/CN=redis",
    "-keyout",
    at("redis.key"),
    "-out",
    at("redis.csr"),
  );
  await Deno.writeTextFile(at("ext"), "subjectAltName=IP:127.0.0.1\n");
  await openssl(
    ...["x509", "-req", "-in", at("redis.csr"), "-CA", at("ca.pem"), "-CAkey", at("ca.key")],
    ...["-days", "2", "-extfile", at("ext"), "-out", at("redis.pem")],
  );
  await Deno.writeTextFile(at("user"), `mallocd ${PASSWORD}\n`);
  await Deno.writeTextFile(at("wrong"), "mallocd guessed\n");
  await Deno.writeTextFile(at("empty"), "\n");
}

Deno.test({
  name: `a cluster with TLS and users lets in who may, and who may not is told why${noRedis}`,
  ignore: noRedis !== "",
  async fn() {
    const folder = await Deno.makeTempDir({ prefix: "mallocd-cluster-" });
    try {
      await makeFiles(folder);
      const ca = await Deno.readTextFile(`${folder}/ca.pem`);
      await using redis = await RedisCluster.start({
        tls: true,
        access: { ca, user: { name: "default", password: ADMIN } },
        args: [
          ...["--tls-cert-file", `${folder}/redis.pem`, "--tls-key-file", `${folder}/redis.key`],
          ...["--tls-ca-cert-file", `${folder}/ca.pem`, "--tls-auth-clients", "no"],
          ...["--requirepass", ADMIN, "--masterauth", ADMIN],
          ...[
            "--user",
            "mallocd",
            "on",
            ...RULES.map((rule) => rule === ">PASSWORD" ? `>${PASSWORD}` : rule),
          ],
        ],
      });
      const args = ["--cluster", redis.nodes, "--range", "0", "--memory", "1MiB"];
      const tls = ["--cluster-ca", `${folder}/ca.pem`];
      {
        const user = ["--cluster-user", `${folder}/user`];
        await using owner = await Mallocd.start([...args, ...tls, ...user]);
        assertEquals(owner.ready["range"], "0");
        await using standby = await Mallocd.start([
          ...args,
          ...tls,
          ...user,
          "--standby",
          "--trim",
          "1",
        ]);
        assertEquals((await owner.client("malloc 16")).code, 0);
        assertEquals((await standby.stop()).code, 0);
        await owner.stop("SIGTERM");
      }
      const refused = async (more: string[], code: number, problem: RegExp) => {
        const outcome = await run(MALLOCD, [...args, "--port", "0", ...more], { timeout: 40_000 });
        assertEquals(outcome.code, code, outcome.stderr);
        assertMatch(outcome.stderr, problem);
        assertMatch(outcome.stderr, /^Try: | try=/m);
      };
      await refused(tls, 1, / reason="127\.0\.0\.1:\d+ refuses: NOAUTH /);
      await refused(
        [...tls, "--cluster-user", `${folder}/wrong`],
        1,
        / reason="127\.0\.0\.1:\d+ refuses: WRONGPASS .*" try="--cluster-user/,
      );
      await refused(
        [...tls, "--cluster-user", `${folder}/empty`],
        2,
        /has no user and password in its first line/,
      );
      await refused(["--cluster-ca", `${folder}/none`], 2, /--cluster-ca \S+none cannot be read: /);
      await refused(
        [],
        1,
        / reason="the cluster cannot be used: 127\.0\.0\.1:.*" try="--cluster-ca FILE, if they/,
      );
      await refused(
        ["--cluster-ca", `${folder}/redis.pem`],
        1,
        / reason="the cluster cannot be used: .*certificate.*" try="--cluster-ca FILE with the/,
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});

Deno.test({
  name: `what cannot be a cluster is told, with what to do${noRedis}`,
  ignore: noRedis !== "",
  async fn() {
    const refused = async (args: string[], code: number, problem: RegExp) => {
      const outcome = await run(MALLOCD, ["--port", "0", ...args], { timeout: 40_000 });
      assertEquals(outcome.code, code, outcome.stderr);
      assertMatch(outcome.stderr, problem);
    };
    const nobody = ["--cluster", "127.0.0.1:1"];
    await refused(
      nobody,
      1,
      / reason="the cluster cannot be used: 127\.0\.0\.1:1: .*" try="--cluster with nodes/,
    );
    await refused(
      ["--cluster", "127.0.0.1:1,127.0.0.1:2", "--check"],
      1,
      /used: 127\.0\.0\.1:1: Connection refused [^;]*; 127\.0\.0\.1:2: Connection refused/,
    );
    await refused(
      ["--cluster", "mallocd.invalid:6379", "--check"],
      1,
      / reason="the cluster cannot be used: mallocd\.invalid:6379(: | cannot).*" try="--cluster with/,
    );
    await refused(
      ["--cluster", "nowhere"],
      2,
      /^mallocd: --cluster cannot be "nowhere"\nTry: use nodes as 10/,
    );
    await refused(
      ["--range", "0"],
      2,
      /^mallocd: --range means nothing without --cluster\nTry: add --cluster/,
    );
    await refused(
      [...nobody, "--range", "131059"],
      2,
      /--range cannot be "131059"\nTry: use auto, or a whole/,
    );
    await refused(
      [...nobody, "--standby"],
      2,
      /^mallocd: --standby follows one range\nTry: --range N/,
    );
    await refused(
      [...nobody, "--engine", "syscall"],
      2,
      /^mallocd: --engine syscall has no --cluster/,
    );
    await refused(
      [...nobody, "--host", "0.0.0.0", "--anyone"],
      1,
      /Cannot listen on 0\.0\.0\.0 in a cluster/,
    );
    await using alone = await Mallocd.start();
    assertEquals(
      await alone.client("cluster"),
      failed(`cluster(): ${alone.server} is a daemon of its own`),
    );
    const single = async (...args: string[]) => {
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const port = String((listener.addr as Deno.NetAddr).port);
      listener.close();
      const folder = await Deno.makeTempDir({ prefix: "mallocd-cluster-" });
      const process = new Deno.Command(SERVER, {
        args: ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder, ...args],
        stdout: "null",
      }).spawn();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      return {
        port: Number(port),
        nodes: ["--cluster", `127.0.0.1:${port}`],
        async [Symbol.asyncDispose]() {
          process.kill("SIGKILL");
          await process.status;
          await Deno.remove(folder, { recursive: true });
        },
      };
    };
    {
      await using redis = await single();
      await refused(
        redis.nodes,
        1,
        / reason="127\.0\.0\.1:\d+ is a Redis, but no cluster" try="/,
      );
      const path = await Deno.makeTempFile();
      await refused(
        [...redis.nodes, "--cluster-ca", path],
        1,
        / reason="the cluster cannot be used: .*" try="leave --cluster-ca out/,
      );
      await Deno.remove(path);
    }
    // The bus of a cluster has a port 10,000 above, which there may not be: this one has another.
    const bus = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port: busPort } = bus.addr as Deno.NetAddr;
    bus.close();
    await using redis = await single("--cluster-enabled", "yes", "--cluster-port", `${busPort}`);
    await refused(
      redis.nodes,
      1,
      / reason="the cluster refuses: CLUSTERDOWN .*" try="redis-cli --cluster check/,
    );
    const connection = await Connection.open({ hostname: "127.0.0.1", port: redis.port }, {}, 2000);
    await connection.call(["CLUSTER", "ADDSLOTSRANGE", 0, 16383], 2000);
    await refused(
      redis.nodes,
      1,
      / reason="range 0 lies on 1 node of the cluster that answers, and --copies 2 needs 2" try="more/,
    );
    await refused(
      [...redis.nodes, "--check"],
      1,
      / reason="range 0 lies on 1 node .*" try="more replicas, or --copies 1/,
    );
    await connection.call(["ACL", "SETUSER", "default", "-fcall"], 2000);
    await refused(
      [...redis.nodes, "--check", "--copies", "1"],
      1,
      / reason="the cluster refuses: NOPERM .*" try="--cluster-user/,
    );
    connection.close();
  },
});
