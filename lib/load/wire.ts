/** How the load generator's datagrams travel: libc_wire.ts where that can be had, else deno_wire.ts. */

import type { Load } from "./load.ts";

export interface Wire {
  readonly name: "libc" | "Deno";
  /** Where datagrams lie, for the load. */
  readonly io: DataView;
  /** Sends what is due and takes what comes, until the clock of performance.now() says so. */
  run(load: Load, until: number): Promise<void>;
  close(): Promise<void>;
}
