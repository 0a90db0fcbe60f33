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
