/** mallocd: a command line in, an engine over a heap, signals until the end. */

import { namedCounts, newCounters } from "./lib/counters.ts";
import { DAEMON, DAEMON_FLAGS } from "./lib/cli/daemon_flags.ts";
import type { Engine } from "./lib/engine.ts";
import { serveDatagram } from "./lib/engines/datagram.ts";
import { formatSize, parseCommandLine, programHelp, UsageError } from "./lib/flags.ts";
import { isLoopback } from "./lib/source.ts";
import { VERSION } from "./lib/version.ts";

async function main(args: readonly string[]): Promise<number> {
  const { values, words } = parseCommandLine(
    DAEMON,
    DAEMON_FLAGS,
    args,
    (name) => Deno.env.get(name),
  );
  if (values.help || values.version) {
    const text = values.help ? programHelp(DAEMON) : `mallocd ${VERSION}\n`;
    Deno.stdout.writeSync(new TextEncoder().encode(text));
    return 0;
  }
  if (words.length > 0) {
    throw new UsageError(`unexpected word ${JSON.stringify(words[0])}`, "mallocd --help");
  }
  const { host, allow, anyone, quiet } = values;
  if (!isLoopback(host) && allow === undefined && !anyone) {
    throw new UsageError(
      `--host ${host} can be reached from other hosts, and there is no authentication`,
      "add --allow CIDR[,CIDR] to answer only those networks, or --anyone to answer everybody",
    );
  }
  const say = quiet ? () => {} : logfmt;

  const counters = newCounters();
  const clock = new Int32Array(new SharedArrayBuffer(4));
  const engine = await serveDatagram({
    hostname: host,
    port: values.port,
    allow,
    memory: values.memory,
    strict: values.strict,
    replayCache: values["replay-cache"],
    counters,
    clock,
  });
  const ticking = setInterval(() => Atomics.add(clock, 0, 1), 1000);
  say({
    msg: "ready",
    version: VERSION,
    address: formatAddress(engine.address),
    memory: formatSize(values.memory),
    engine: engine.name,
  });
  const signal = await nextSignal();
  clearInterval(ticking);
  await engine.close();
  const counts = namedCounts(counters).filter(([, count]) => count > 0);
  say({ msg: "stopped", signal, ...Object.fromEntries(counts) });
  return 0;
}

/** One line on stderr (logfmt: key=value, values with blanks in quotes). */
function logfmt(fields: Record<string, string | number>): void {
  const pairs = Object.entries(fields).map(([key, value]) => {
    const text = String(value);
    return `${key}=${/[\s"=]/.test(text) ? JSON.stringify(text) : text}`;
  });
  console.error(`mallocd: ${pairs.join(" ")}`);
}

function formatAddress({ hostname, port }: Engine["address"]): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

function nextSignal(): Promise<Deno.Signal> {
  const { promise, resolve } = Promise.withResolvers<Deno.Signal>();
  const signals: Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM"];
  for (const signal of signals) Deno.addSignalListener(signal, () => resolve(signal));
  return promise;
}

/** What goes wrong is one line on stderr; only what is a defect of this program shows a stack. */
function report(error: unknown): number {
  if (error instanceof UsageError) {
    console.error(`mallocd: ${error.message}\nTry: ${error.hint}`);
    return 2;
  }
  if (error instanceof Error) {
    console.error(`mallocd: ${error.message}`);
  }
  return 1;
}

Deno.exit(await main(Deno.args).catch(report));
