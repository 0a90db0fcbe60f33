/** A cluster that speaks TLS and asks who is there, and what is told when one may not in. */

import { assertEquals, assertMatch } from "@std/assert";
import { failed, MALLOCD, Mallocd, run } from "../programs/programs.ts";
import { RedisCluster, whyNoRedis } from "./redis.ts";

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
        const outcome = await run(MALLOCD, [...args, "--port", "0", ...more], { timeout: 15_000 });
        assertEquals(outcome.code, code, outcome.stderr);
        assertMatch(outcome.stderr, problem);
        assertMatch(outcome.stderr, /^Try: /m);
      };
      await refused(tls, 1, /^mallocd: the cluster refuses: NOAUTH /);
      await refused(
        [...tls, "--cluster-user", `${folder}/wrong`],
        1,
        /^mallocd: the cluster refuses: WRONGPASS /,
      );
      await refused(
        [...tls, "--cluster-user", `${folder}/empty`],
        2,
        /has no user and password in its first line/,
      );
      await refused(["--cluster-ca", `${folder}/none`], 2, /--cluster-ca \S+none cannot be read: /);
      await refused([], 1, /^mallocd: the cluster cannot be used: /);
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
      const outcome = await run(MALLOCD, ["--port", "0", ...args], { timeout: 15_000 });
      assertEquals(outcome.code, code, outcome.stderr);
      assertMatch(outcome.stderr, problem);
    };
    const nobody = ["--cluster", "127.0.0.1:1"];
    await refused(
      nobody,
      1,
      /^mallocd: the cluster cannot be used: 127\.0\.0\.1:1: .*\nTry: --cluster with nodes/,
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
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const port = String((listener.addr as Deno.NetAddr).port);
    listener.close();
    await using single = new Deno.Command("redis-server", {
      args: ["--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp"],
      stdout: "null",
    }).spawn();
    await new Promise((resolve) => setTimeout(resolve, 1000));
    await refused(
      ["--cluster", `127.0.0.1:${port}`],
      1,
      /^mallocd: 127\.0\.0\.1:\d+ is a Redis, but no cluster\nTry: /,
    );
    single.kill("SIGKILL");
  },
});
