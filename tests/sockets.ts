/** Tests over real sockets, which `deno test -P` may have and plain `deno test` may not. */

/** Why there are no sockets of the loopback interface; undefined if there are. Nothing is ever asked for. */
export const UNPERMITTED =
  Deno.permissions.querySync({ name: "net", host: "127.0.0.1" }).state === "granted"
    ? undefined
    : "no permission for 127.0.0.1, which `deno test -P` gives";

/** The same, for the end of a test's name. */
export const NO_SOCKETS = UNPERMITTED === undefined ? "" : ` (skipped: ${UNPERMITTED})`;

/** Like Deno.test, for a test that opens sockets: it is skipped, aloud, where it may not. */
export function socketTest(
  name: string,
  fn: Deno.TestDefinition["fn"],
  options: Partial<Deno.TestDefinition> = {},
): void {
  Deno.test({ ...options, name: name + NO_SOCKETS, ignore: UNPERMITTED !== undefined, fn });
}

/**
 * A UDP port on which nobody listens, nor will, however many programs are given free ones meanwhile: it is
 * none of those that systems give (from 32,768 on in Linux, from 49,152 on elsewhere).
 */
export function vacantPort(hostname = "127.0.0.1"): number {
  for (;;) {
    const port = 20_000 + Math.floor(10_000 * Math.random());
    try {
      Deno.listenDatagram({ transport: "udp", hostname, port }).close();
      return port;
    } catch (error) {
      if ((error as Error).name !== "AddrInUse") throw error;
    }
  }
}
