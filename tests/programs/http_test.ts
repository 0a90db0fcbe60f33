/** --http of the executable: the page, the metrics and its command line. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { MALLOCD, Mallocd, misused, ROOT, run, unstarted } from "./programs.ts";

/** promtool checks what Prometheus would read; tools/promtool.sh fetches it. */
const PROMTOOL = new URL(".tools/promtool/usr/bin/promtool", ROOT).pathname;

async function whyNoPromtool(): Promise<string> {
  try {
    await Deno.stat(PROMTOOL);
    return "";
  } catch {
    return " (skipped: no promtool; tools/promtool.sh fetches it)";
  }
}
const noPromtool = await whyNoPromtool();

/** Where its ready line says that it serves by HTTP. */
const urlOf = (daemon: Mallocd) => daemon.ready["http"]!;

Deno.test("mallocd --http serves the page and the metrics, and says where", async () => {
  for (const engine of ["auto", "datagram"]) {
    await using daemon = await Mallocd.start(["--http", "0", "--engine", engine]);
    assertMatch(urlOf(daemon), /^http:\/\/127\.0\.0\.1:\d+\/$/);
    await daemon.client("malloc 100");
    assertMatch(await (await fetch(urlOf(daemon))).text(), /<title>mallocd<\/title>/);
    const stats = await (await fetch(`${urlOf(daemon)}stats.json`)).json();
    assertEquals([stats["requests.malloc"], stats.blocks], [1, 1]);
    const told = JSON.parse((await daemon.client("--json stat")).stdout);
    assertEquals(Object.keys(stats), Object.keys(told));
    assertEquals([stats.epoch, stats.heap, stats.bytesAsked], [told.epoch, 2 ** 30, 100]);
    const health = await fetch(`${urlOf(daemon)}healthz`);
    assertEquals([health.status, await health.text()], [200, "ok\n"]);
  }
});

Deno.test("mallocd without --http listens to no TCP", async () => {
  await using daemon = await Mallocd.start();
  assertEquals(daemon.ready["http"], undefined);
  const sockets = [];
  for await (const { name } of Deno.readDir(`/proc/${daemon.pid}/fd`)) {
    const link = await Deno.readLink(`/proc/${daemon.pid}/fd/${name}`).catch(() => "");
    if (link.startsWith("socket:")) sockets.push(link.slice("socket:[".length, -1));
  }
  const inodes = async (table: string) =>
    (await run("cat", [`/proc/net/${table}`])).stdout.split("\n").map((line) =>
      line.trim().split(/\s+/)[9]
    );
  const tcp = [...await inodes("tcp"), ...await inodes("tcp6")];
  assertEquals(sockets.filter((inode) => tcp.includes(inode)), []);
});

Deno.test("mallocd ends in time while browsers hold connections open", async () => {
  await using daemon = await Mallocd.start(["--http", "0"]);
  const answer = await fetch(urlOf(daemon)); // its connection is kept
  await answer.text();
  const { hostname, port } = new URL(urlOf(daemon));
  using idle = await Deno.connect({ hostname, port: Number(port) });
  await idle.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: loc"));
  const { code } = await daemon.stop();
  assertEquals(code, 0);
});

Deno.test("mallocd serves on when it gets more connections than it may have, and lets others in later", async () => {
  for (const engine of ["auto", "datagram"]) {
    const line = `ulimit -n 64 && exec ${MALLOCD} --port 0 --http 0 --engine ${engine}`;
    await using daemon = await Mallocd.from("sh", ["-c", line]);
    const { hostname, port } = new URL(urlOf(daemon));
    const connections: Deno.Conn[] = [];
    for (let i = 0; i < 100; i++) {
      const connection = await Deno.connect({ hostname, port: Number(port) }).catch(() =>
        undefined
      );
      if (connection === undefined) break; // it takes no more
      connections.push(connection);
    }
    assertEquals((await daemon.client("malloc 5")).code, 0);
    let status = 0; // although none of them goes
    for (let i = 0; i < 100 && status !== 200; i++) {
      const answer = await fetch(`${urlOf(daemon)}healthz`).catch(() => undefined);
      await answer?.body?.cancel();
      status = answer?.status ?? 0;
      if (status !== 200) await new Promise((resolve) => setTimeout(resolve, 100));
    }
    for (const connection of connections) connection.close();
    assertEquals(status, 200);
    assertEquals((await daemon.stop()).code, 0);
  }
});

Deno.test("mallocd says what is wrong with --http and --http-names", async () => {
  const listener = "a port, or an address and a port as 127.0.0.1:9100 or [::1]:9100";
  for (const value of ["nonsense", "127.0.0.1", "65536", "127.0.0.1:", "::1:9100", "1:2:3"]) {
    const message = `--http cannot be ${JSON.stringify(value)}`;
    assertEquals(
      await run(MALLOCD, ["--http", value]),
      misused(message, `use ${listener}`, "mallocd"),
    );
  }
  const { code, stderr } = await run(MALLOCD, ["--http", "0", "--http-names", "a b"]);
  assertEquals([code, stderr.includes("(a b is none)")], [2, true], stderr);
  assertEquals(
    await run(MALLOCD, ["--http-names", "heap.example"]),
    misused(
      "--http-names means nothing without --http",
      "add --http [ADDR:]PORT, or leave it out",
      "mallocd",
    ),
  );
});

Deno.test("mallocd does not start when --http cannot be listened on, and --check tells so", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = taken.addr as Deno.NetAddr;
  for (const check of [[], ["--check"]]) {
    assertEquals(
      await run(MALLOCD, ["--port", "0", "--http", `${port}`, ...check]),
      unstarted(
        `127.0.0.1:${port} is already in use`,
        "stop what listens there, or take another --http, 0 for any free one",
      ),
    );
  }
});

Deno.test({
  name: `promtool finds no fault with /metrics${noPromtool}`,
  ignore: noPromtool !== "",
  fn: async () => {
    await using daemon = await Mallocd.start(["--http", "0"]);
    const metrics = await (await fetch(`${urlOf(daemon)}metrics`)).text();
    const lines = metrics.split("\n").length;
    assertEquals(lines > 100, true, `${lines} lines`); // promtool is content with none
    assertEquals(await run(PROMTOOL, ["check", "metrics"], { input: metrics }), {
      code: 0,
      stdout: "",
      stderr: "",
    });
  },
});

/** The labels of each metric of a scrape, with their values. A histogram is its buckets, sum and count. */
function labelsOf(metrics: string): Map<string, Map<string, Set<string>>> {
  const found = new Map<string, Map<string, Set<string>>>();
  for (const [, name, labels] of metrics.matchAll(/^([a-z_]+)(?:\{(.*)\})? /gm)) {
    const of = found.get(name!) ?? new Map<string, Set<string>>();
    found.set(name!, of);
    for (const [, label, value] of (labels ?? "").matchAll(/(\w+)="([^"]*)"/g)) {
      of.set(label!, (of.get(label!) ?? new Set()).add(value!));
    }
  }
  return found;
}

Deno.test("docs/alerts.yml and docs/grafana.json ask for metrics, labels and values that a scrape has", async () => {
  await using daemon = await Mallocd.start(["--http", "0"]);
  const there = labelsOf(await (await fetch(`${urlOf(daemon)}metrics`)).text());
  const rules = await Deno.readTextFile(new URL("docs/alerts.yml", ROOT));
  const dashboard = JSON.parse(await Deno.readTextFile(new URL("docs/grafana.json", ROOT)));
  type Target = { expr: string; legendFormat?: string };
  const queries: Target[] = [
    ...[...rules.matchAll(/expr: (.+)/g)].map(([, expr]) => ({ expr: expr! })),
    ...dashboard.panels.flatMap(({ targets }: { targets: Target[] }) => targets),
    ...dashboard.templating.list.map(({ definition = "" }) => ({ expr: definition })),
  ];
  let metrics = 0;
  for (const { expr, legendFormat = "" } of queries) {
    // Prometheus adds these two to whatever it scrapes.
    const labels = new Set(["instance", "job"]);
    for (const [, name, matchers] of expr.matchAll(/\b(mallocd_[a-z_]+)(?:\{([^}]*)\})?/g)) {
      metrics++;
      const of = there.get(name!);
      assert(of !== undefined, `${name} of ${expr}`);
      for (const label of of.keys()) labels.add(label);
      for (const [, label, value] of (matchers ?? "").matchAll(/(\w+)[=!~]+"([^"]*)"/g)) {
        if (label !== "instance") assert(of.get(label!)?.has(value!), `${label} of ${expr}`);
      }
    }
    const by = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list]) => list!.split(/, */));
    for (const label of by) assert(labels.has(label), `${label} of ${expr}`);
    for (const [, label] of legendFormat.matchAll(/\{\{ *(\w+) *\}\}/g)) {
      assert(by.includes(label!), `${legendFormat} of ${expr}`);
    }
  }
  assert(metrics >= 40, `${metrics} metrics`);
});

Deno.test({
  name: `promtool finds docs/alerts.yml right, and its unit tests pass${noPromtool}`,
  ignore: noPromtool !== "",
  fn: async () => {
    const check = await run(PROMTOOL, [
      "check",
      "rules",
      new URL("docs/alerts.yml", ROOT).pathname,
    ]);
    assertEquals(check.code, 0, check.stderr);
    assertMatch(check.stdout, /SUCCESS: 10 rules found/);
    const tests = new URL("tests/programs/alerts.yml", ROOT).pathname;
    const { code, stdout, stderr } = await run(PROMTOOL, ["test", "rules", tests]);
    assertEquals([code, stdout.includes("SUCCESS")], [0, true], stdout + stderr);
  },
});

Deno.test({
  name: `promtool understands every query of docs/grafana.json${noPromtool}`,
  ignore: noPromtool !== "",
  fn: async () => {
    const { panels } = JSON.parse(await Deno.readTextFile(new URL("docs/grafana.json", ROOT)));
    const queries: string[] = panels.flatMap(({ targets }: { targets: { expr: string }[] }) =>
      targets.map(({ expr }) =>
        expr.replaceAll("$__rate_interval", "5m").replaceAll("$instance", ".*")
      )
    );
    assertEquals(queries.length > 20, true);
    const rules = queries.map((expr, i) => ({ record: `query:${i}`, expr }));
    const file = await Deno.makeTempFile({ prefix: "mallocd-", suffix: ".yml" });
    try { // what is JSON is YAML, too
      await Deno.writeTextFile(file, JSON.stringify({ groups: [{ name: "queries", rules }] }));
      const { code, stdout, stderr } = await run(PROMTOOL, ["check", "rules", file]);
      assertEquals([code, stdout.includes(`SUCCESS: ${queries.length} rules`)], [0, true], stderr);
    } finally {
      await Deno.remove(file);
    }
  },
});
