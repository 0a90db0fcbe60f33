/**
 * What a browser, Prometheus or a load balancer gets over HTTP: a page with the map of the heap, figures,
 * and whether the daemon serves. It only reads what the daemon's threads share, keeps nothing of those who
 * ask, and does nothing while nobody asks.
 *
 * A web page from elsewhere must not read it. Its requests come with the name of its own host, to which the
 * attacker has let the daemon's address point (DNS rebinding): hosts that are neither addresses nor known
 * names are refused. There is no CORS, and the page loads nothing from elsewhere.
 */

import { HeapMap } from "./map.ts";
import { figuresByFamily, prometheusText } from "./metrics.ts";
import type { Gauges } from "../gauges.ts";
import { Counter, namedCounts } from "../counters.ts";
import type { State, StateOptions } from "../state.ts";
import { Buddy } from "../../heap/buddy.ts";
import { GRAIN } from "../../heap/heap.ts";
import colours from "./page/colours.js" with { type: "text" };
import curve from "./page/curve.js" with { type: "text" };
import icon from "./page/icon.svg" with { type: "text" };
import index from "./page/index.html" with { type: "text" };
import script from "./page/page.js" with { type: "text" };
import style from "./page/style.css" with { type: "text" };

/** How long the map may be looked at for one request, and how long it is left alone afterwards. */
const SLICE_MS = 3;
const PAUSE_MS = 90;

/** How often it is looked whether it still listens. */
const LOOK_MS = 1000;

const JAVASCRIPT = "text/javascript; charset=utf-8";

/** What does not change, by path: its type and its text. */
const FILES: Readonly<Record<string, readonly [type: string, text: string]>> = {
  "/": ["text/html; charset=utf-8", index],
  "/style.css": ["text/css; charset=utf-8", style],
  "/page.js": [JAVASCRIPT, script],
  "/curve.js": [JAVASCRIPT, curve],
  "/colours.js": [JAVASCRIPT, colours],
  "/icon.svg": ["image/svg+xml", icon],
};

/** no-transform: to compress what goes over loopback would take time from whoever serves. */
const HEADERS = {
  "cache-control": "no-store, no-transform",
  "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; " +
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
} as const;

export interface HttpOptions {
  hostname: string;
  /** 0 for any free port. */
  port: number;
  /** By which it may be asked for, beside addresses and localhost; in small letters. */
  names: readonly string[];
  /** What made `state`, and the state itself. */
  sizes: StateOptions;
  state: State;
  gauges: Gauges;
  /** The address of the first byte of the heap; a cluster may change its mind. */
  base: () => number;
  /** The address that the engine listens on. */
  serving: string;
  isServing: () => boolean;
}

export interface HttpServer {
  readonly hostname: string;
  readonly port: number;
  close(): Promise<void>;
}

/** Throws what Deno.serve throws when the address cannot be listened on. */
export function serveHttp({ hostname, port, ...options }: HttpOptions): HttpServer {
  const site = new Site(options);
  const listen = (port: number) => {
    /** Ends it with all connections: shutdown() would wait for who keeps his. */
    const end = new AbortController();
    const server = Deno.serve({
      hostname,
      port,
      signal: end.signal,
      onListen: () => {},
      onError: () => reply(500, "it failed\n"),
    }, (request) => site.answer(request));
    const finished = server.finished.catch(() => {});
    const close = () => {
      end.abort();
      return finished;
    };
    return { ...server.addr, close };
  };
  const first = listen(port);
  let current = first;
  // More connections than there are descriptors for end the listener, and nobody is told as long as one of
  // them is left. Whether another one can be had tells; if so, those connections end, so that others come in.
  const looking = setInterval(() => {
    const before = current;
    try {
      current = listen(first.port);
    } catch (error) {
      if (error instanceof Deno.errors.AddrInUse) return; // by ourselves
    }
    before.close();
  }, LOOK_MS);
  return {
    hostname: first.hostname,
    port: first.port,
    close() {
      clearInterval(looking);
      return current.close();
    },
  };
}

class Site {
  readonly #options: Omit<HttpOptions, "hostname" | "port">;
  readonly #map: HeapMap;
  readonly #missing: number;
  /** Of the cells as they are now: milliseconds since 1970, so that a daemon's are above its predecessor's. */
  #generation = Date.now();
  /** When the map was last looked at, and whether to the end. */
  #lookedAt = -Infinity;
  #isComplete = false;
  /** Datagrams that had come when each of the last two walks began: equal, if nothing can have changed. */
  #walks = [NaN, NaN];

  constructor(options: Omit<HttpOptions, "hostname" | "port">) {
    this.#options = options;
    const buddy = new Buddy(options.sizes.memory / GRAIN, options.state.buddy);
    this.#missing = buddy.missing;
    this.#map = new HeapMap(buddy, options.state.heap);
  }

  answer(request: Request): Response {
    const host = request.headers.get("host");
    // RFC 9112, 3.2. The version is not to be had here: 1.0 may do without one, and gets the same.
    if (host === null || host.includes(",")) return reply(400, "it takes one Host\n");
    const url = URL.parse(request.url);
    if (url === null) return reply(400, "its Host is none\n");
    const { hostname, pathname, searchParams } = url;
    if (!this.#isOurs(hostname)) {
      return reply(421, "this host is not served here: see --http-names\n");
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return reply(405, "only GET and HEAD\n", { allow: "GET, HEAD" });
    }
    const file = Object.hasOwn(FILES, pathname) ? FILES[pathname] : undefined;
    if (file !== undefined) return reply(200, file[1], { "content-type": file[0] });
    switch (pathname) {
      case "/healthz":
        return this.#options.isServing() ? reply(200, "ok\n") : reply(503, "it does not serve\n");
      case "/metrics":
        return reply(200, prometheusText(this.#counters()), {
          "content-type": "text/plain; version=0.0.4; charset=utf-8",
        });
      case "/stats.json":
        return json(this.#stats());
      case "/live":
        return json(this.#live(Number(searchParams.get("since"))));
      default:
        return reply(404, "there is no such page\n");
    }
  }

  /** Addresses cannot be made to point elsewhere. */
  #isOurs(hostname: string): boolean {
    const isAddress = hostname.startsWith("[") || /^\d+(\.\d+){3}$/.test(hostname);
    return isAddress || hostname === "localhost" || this.#options.names.includes(hostname);
  }

  #counters(): Float64Array {
    this.#options.gauges.refresh();
    return this.#options.state.service.counters;
  }

  /** The object that `mallocd-client --json stat` prints. */
  #stats() {
    const epoch = Array.from(
      this.#options.state.service.epoch,
      (word) => (word >>> 0).toString(16).padStart(8, "0"),
    );
    return { epoch: `0x${epoch.join("")}`, ...Object.fromEntries(namedCounts(this.#counters())) };
  }

  /** What the page polls: figures, and the cells that have changed after a generation. */
  #live(since: number) {
    this.#look();
    const { base, serving, sizes } = this.#options;
    const map = this.#map;
    const runs = map.changes(since > 0 && since <= this.#generation ? since : 0);
    return {
      generation: this.#generation,
      complete: this.#isComplete,
      address: serving,
      isServing: this.#options.isServing(),
      heap: {
        base: base(),
        size: sizes.memory,
        grain: GRAIN,
        missing: this.#missing * GRAIN,
        cells: map.cells.length,
        cellBytes: GRAIN * 2 ** map.order,
      },
      changes: new Uint8Array(runs.buffer, 0, runs.byteLength).toBase64(),
      stats: figuresByFamily(this.#counters()),
    };
  }

  /** Goes on looking at the map, unless somebody has just done so, or all datagrams were before two walks. */
  #look(): void {
    const now = performance.now();
    if (now - this.#lookedAt < PAUSE_MS) return;
    const received = this.#options.state.service.counters[Counter.received]!;
    if (this.#isComplete && this.#walks.every((before) => before === received)) return;
    if (this.#isComplete || this.#lookedAt === -Infinity) {
      this.#walks = [this.#walks[1]!, received];
    }
    this.#generation = Math.max(this.#generation + 1, Date.now());
    this.#isComplete = this.#map.walk(this.#generation, SLICE_MS);
    this.#lookedAt = performance.now();
  }
}

function json(value: unknown): Response {
  return reply(200, JSON.stringify(value), { "content-type": "application/json" });
}

function reply(status: number, body: string, headers: Record<string, string> = {}): Response {
  return new Response(body, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", ...HEADERS, ...headers },
  });
}
