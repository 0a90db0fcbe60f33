import { assert, assertEquals, assertMatch } from "@std/assert";
import { serveDatagram } from "../../../lib/daemon/engines/datagram.ts";
import { Gauges } from "../../../lib/daemon/gauges.ts";
import { serveHttp } from "../../../lib/daemon/http/server.ts";
import { newState } from "../../../lib/daemon/state.ts";
import type { Remote } from "../../../lib/client/remote.ts";
import { HEAP_BASE } from "../../../lib/heap/heap.ts";
import { socketTest } from "../../sockets.ts";
import { newOptions } from "../../testing.ts";
import { connect } from "../../remote.ts";

const MEMORY = 1024 ** 2; // 4096 cells of 16 grains, or 65,536 of one

interface Site extends AsyncDisposable {
  port: number;
  remote: Remote;
  /** Whether the engine says that it serves. */
  health: { isServing: boolean };
  get(path: string, init?: RequestInit): Promise<Response>;
}

/** A daemon with a page, and a client of it. */
async function open(names: string[] = []): Promise<Site> {
  const sizes = { memory: MEMORY, replayCache: 64 };
  const state = newState(sizes);
  const engine = await serveDatagram(newOptions({ ...sizes, state }));
  const health = { isServing: true };
  const http = serveHttp({
    hostname: "127.0.0.1",
    port: 0,
    names,
    sizes,
    state,
    gauges: new Gauges(sizes, state),
    base: () => HEAP_BASE,
    serving: "127.0.0.1:8081",
    isServing: () => health.isServing,
  });
  const remote = await connect({ server: `127.0.0.1:${engine.address.port}` });
  return {
    port: http.port,
    remote,
    health,
    get: (path, init) => fetch(`http://127.0.0.1:${http.port}${path}`, init),
    async [Symbol.asyncDispose]() {
      await remote[Symbol.asyncDispose]();
      await Promise.all([http.close(), engine.close()]);
    },
  };
}

/** The status line for a request that is written by hand. */
async function statusOf(port: number, request: string): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  await connection.write(new TextEncoder().encode(`${request}\r\nConnection: close\r\n\r\n`));
  const answer = await new Response(connection.readable).text();
  return answer.slice(0, answer.indexOf("\r\n"));
}

interface Live {
  generation: number;
  complete: boolean;
  heap: { base: number; size: number; cells: number; cellBytes: number; missing: number };
  changes: string;
  stats: Record<string, number>;
}

/** What the page knows: it asks until a walk through the heap has ended, and keeps the cells. */
class Viewer {
  cells = new Uint16Array(0);
  generation = 0;
  fetched = 0;

  constructor(readonly site: Site) {}

  async look(): Promise<Live> {
    this.fetched = 0;
    for (;;) {
      const live: Live = await (await this.site.get(`/live?since=${this.generation}`)).json();
      if (this.generation === 0) this.cells = new Uint16Array(live.heap.cells);
      this.generation = live.generation;
      const runs = new Uint16Array(Uint8Array.fromBase64(live.changes).buffer);
      for (let at = 0; at < runs.length; at += 2 + runs[at + 1]!) {
        this.cells.set(runs.subarray(at + 2, at + 2 + runs[at + 1]!), runs[at]!);
        this.fetched += runs[at + 1]!;
      }
      if (live.complete) return live;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  /** A map that was looked at just now is not looked at again. */
  async lookAgain(): Promise<Live> {
    await new Promise((resolve) => setTimeout(resolve, 100));
    return await this.look();
  }

  /** Of the cell at an offset: its fullness, and whether it was touched. */
  at(offset: number): [fullness: number, isTouched: boolean] {
    const cell = this.cells[offset / (MEMORY / this.cells.length)]!;
    return [cell & 255, (cell >>> 14 & 1) === 1];
  }
}

socketTest(
  "serveHttp() gives the page and what it loads, and nothing of that comes from elsewhere",
  async () => {
    await using site = await open();
    const page = await site.get("/");
    assertEquals(page.headers.get("content-type"), "text/html; charset=utf-8");
    const policy = page.headers.get("content-security-policy")!;
    assertMatch(policy, /default-src 'none'/);
    assert(!policy.includes("unsafe"), policy);
    const html = await page.text();
    const links = [...html.matchAll(/(?:href|src)="([^"]+)"/g)].map(([, link]) => link!);
    assert(links.length >= 3);
    for (const link of links) {
      assertMatch(link, /^\/[a-z]/);
      const file = await site.get(link);
      assertEquals(file.status, 200, link);
      const text = await file.text();
      const elsewhere = text.match(/(?:https?:)?\/\/[\w-]+\.[\w.-]+/g) ?? [];
      assertEquals(elsewhere.filter((url) => url !== "http://www.w3.org"), [], link);
      for (const [, module] of text.matchAll(/from "(.+)"/g)) {
        const imported = await site.get(module!.slice(1));
        assertMatch(imported.headers.get("content-type")!, /javascript/, module);
        await imported.body?.cancel();
      }
    }
  },
);

socketTest("serveHttp() answers only GET and HEAD, and says what there is not", async () => {
  await using site = await open();
  for (const method of ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"]) {
    const answer = await site.get("/", { method });
    assertEquals([answer.status, answer.headers.get("allow")], [405, "GET, HEAD"], method);
    await answer.body?.cancel();
  }
  const head = await site.get("/metrics", { method: "HEAD" });
  assertEquals([head.status, await head.text()], [200, ""]);
  for (const path of ["/nothing", "/constructor", "/..%2f..%2fetc/passwd", "//", "/page/"]) {
    const answer = await site.get(path);
    assertEquals(answer.status, 404, path);
    await answer.body?.cancel();
  }
});

socketTest(
  "serveHttp() refuses no host, two, and those that are neither addresses nor names that it was told",
  async () => {
    await using site = await open(["heap.example"]);
    const { port } = site;
    const ours = [
      `127.0.0.1:${port}`,
      `localhost:${port}`,
      "[::1]",
      "192.0.2.1",
      "HEAP.example:80",
    ];
    for (const host of ours) {
      assertEquals(
        await statusOf(port, `GET / HTTP/1.1\r\nHost: ${host}`),
        "HTTP/1.1 200 OK",
        host,
      );
    }
    const foreign = [
      "evil.example",
      "heap.example.evil.example",
      "127.0.0.1.evil.example",
      "localhost.",
    ];
    for (const host of foreign) {
      const status = await statusOf(port, `GET /live HTTP/1.1\r\nHost: ${host}`);
      assertEquals(status, "HTTP/1.1 421 Misdirected Request", host);
    }
    for (const host of ["a b", "", "127.0.0.1:99999999", "%"]) {
      const status = await statusOf(port, `GET / HTTP/1.1\r\nHost: ${host}`);
      assertEquals(status, "HTTP/1.1 400 Bad Request", host);
    }
    const one = "Host: 127.0.0.1";
    for (const head of ["X: y", `${one}\r\n${one}`, `${one}\r\nX: y\r\nHost: evil.example`]) {
      for (const target of ["/", "http://127.0.0.1/"]) {
        const status = await statusOf(port, `GET ${target} HTTP/1.1\r\n${head}`);
        assertEquals(status, "HTTP/1.1 400 Bad Request", head);
      }
    }
    const absolute = await statusOf(port, "GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1");
    assertEquals(absolute, "HTTP/1.1 421 Misdirected Request");
  },
);

socketTest("serveHttp() permits no other origin to read it", async () => {
  await using site = await open();
  const answer = await site.get("/live", { headers: { origin: "http://evil.example" } });
  const allowed = [...answer.headers.keys()].filter((name) => name.startsWith("access-control"));
  assertEquals(allowed, []);
  await answer.body?.cancel();
});

socketTest("/healthz is 200 while the engine serves, and 503 when it does not", async () => {
  await using site = await open();
  const healthy = await site.get("/healthz");
  assertEquals([healthy.status, await healthy.text()], [200, "ok\n"]);
  site.health.isServing = false;
  const ill = await site.get("/healthz");
  assertEquals([ill.status, await ill.text()], [503, "it does not serve\n"]);
});

socketTest("/stats.json and /metrics tell what clients have done", async () => {
  await using site = await open();
  await site.remote.malloc(100);
  const stats = await (await site.get("/stats.json")).json();
  assertEquals(stats["requests.malloc"], 1);
  assertEquals([stats.blocks, stats.bytes, stats.heap], [1, 128, MEMORY]);
  assertEquals(stats.largestFree, MEMORY / 2);
  const answer = await site.get("/metrics");
  assertEquals(answer.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  const metrics = await answer.text();
  assertMatch(metrics, /^mallocd_requests_total\{method="malloc"\} 1$/m);
  assertMatch(metrics, /^mallocd_live_bytes 128$/m);
  assertMatch(metrics, /^mallocd_live_blocks\{up_to="128"\} 1$/m);
});

socketTest("/live gives all cells at first, and then those that have changed", async () => {
  await using site = await open();
  const viewer = new Viewer(site);
  const { heap } = await viewer.look();
  assertEquals([heap.base, heap.size, heap.cells], [HEAP_BASE, MEMORY, 65536]);
  assert(viewer.fetched >= 65536); // more, where a walk takes several requests
  await viewer.lookAgain();
  assertEquals(viewer.fetched, 0);

  const pointer = await site.remote.malloc(4096);
  await viewer.lookAgain();
  assertEquals(Number(pointer), HEAP_BASE);
  assertEquals([viewer.at(0), viewer.at(4080), viewer.at(4096)], [
    [255, false],
    [255, false],
    [0, false],
  ]);
  const other = new Viewer(site);
  await other.look();
  assertEquals(other.cells, viewer.cells);
});

socketTest("/live gives all cells to whoever names a generation that there was not", async () => {
  await using site = await open();
  await new Viewer(site).look();
  for (const since of ["", "nonsense", "-1", "Infinity", "1e300", "NaN", "99999999999999"]) {
    const live: Live = await (await site.get(`/live?since=${since}`)).json();
    assertEquals(Uint8Array.fromBase64(live.changes).length, 2 * (65536 + 4), since);
  }
});

socketTest(
  "/live tells what was written once, and is free, from what was never touched",
  async () => {
    await using site = await open();
    const { remote } = site;
    const viewer = new Viewer(site);
    const written = await remote.malloc(4096);
    const untouched = await remote.malloc(4096);
    await remote.write(written, new Uint8Array(8).fill(1));
    await viewer.look();
    assertEquals([viewer.at(0), viewer.at(4096)], [[255, true], [255, false]]);
    await remote.free(written);
    await remote.free(untouched);
    await viewer.lookAgain();
    assertEquals([viewer.at(0), viewer.at(4096)], [[0, true], [0, false]]);

    // To zero it for somebody else does not make it untouched again; nor does it matter when one looks.
    await remote.free(await remote.malloc(4096));
    await viewer.lookAgain();
    assertEquals([viewer.at(0), viewer.at(4096)], [[0, true], [0, false]]);
  },
);

socketTest("a daemon's generations are above those of the one before it", async () => {
  const viewers: Viewer[] = [];
  for (let i = 0; i < 2; i++) {
    await using site = await open();
    const viewer = new Viewer(site);
    await viewer.look();
    viewers.push(viewer);
    if (i === 0) await viewer.lookAgain();
  }
  const [before, after] = viewers;
  assert(after!.generation > before!.generation);
});
