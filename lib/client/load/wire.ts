/** How the load generator's datagrams travel: libc_wire.ts where that can be had, else deno_wire.ts. */

import type { Load } from "./load.ts";

/** There can be no such wire here; `hint` says what to do instead. */
export class WireError extends Error {
  override readonly name = "WireError";
  constructor(message: string, readonly hint: string) {
    super(message);
  }

  /** EMFILE: every client has a socket, and a process may have only so many. */
  static tooManyClients(clients: number): WireError {
    return new WireError(
      `this process may not open ${clients} sockets, one for each client`,
      "use fewer --clients, or raise the limit, ulimit -n",
    );
  }
}

export interface Wire {
  readonly name: "libc" | "Deno";
  /** Where datagrams lie, for the load. */
  readonly io: DataView;
  /** Sends what is due and takes what comes, until the clock of performance.now() says so. */
  run(load: Load, until: number): Promise<void>;
  close(): Promise<void>;
}
