/** What the signals of an operator, or of a service manager, mean to a daemon. */

import type { Engine } from "./engine.ts";
import type { Log } from "./log.ts";

/** The first one from now on that is to end it. */
export function nextSignal(): Promise<Deno.Signal> {
  const { promise, resolve } = Promise.withResolvers<Deno.Signal>();
  const signals: Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT", "SIGBREAK"]
    : ["SIGINT", "SIGTERM"];
  for (const signal of signals) Deno.addSignalListener(signal, () => resolve(signal));
  return promise;
}

/** USR1 asks for the totals; the other two would kill, and mean nothing but to the quic engine. Windows has none of them. */
export function surviveSignals(tellTotals: () => void): void {
  if (Deno.build.os === "windows") return;
  Deno.addSignalListener("SIGUSR1", tellTotals);
  Deno.addSignalListener("SIGUSR2", () => {});
  Deno.addSignalListener("SIGHUP", () => {});
}

/** Certificates end, and tokens are withdrawn, while a daemon goes on. */
export function reloadOnHangup(engine: Engine, say: Log): void {
  if (engine.reload === undefined || Deno.build.os === "windows") return;
  Deno.addSignalListener("SIGHUP", () => {
    engine.reload!().then(
      () => say({ msg: "reloaded" }),
      (error) => say({ msg: "not reloaded", level: "error", reason: error.message }),
    );
  });
}
