/** A Remote for tests: how long a busy machine takes is not what any of them is about. */

import {
  type CallOptions,
  MAX_TIMEOUT_MS,
  Remote,
  type RemoteOptions,
} from "../lib/client/remote.ts";

/** Milliseconds for calls that are not meant to be given up for lack of patience. */
export const PATIENCE_MS = MAX_TIMEOUT_MS;

/** As Remote.connect(), but patient unless it is told otherwise. */
export function connect(options: RemoteOptions = {}, call?: CallOptions): Promise<Remote> {
  return Remote.connect({ timeout: PATIENCE_MS, ...options }, call);
}
