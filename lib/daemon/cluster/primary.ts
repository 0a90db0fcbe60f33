/**
 * A way to whoever is the primary of a key: it follows the cluster when the key's slot is moved, or when a
 * replica takes over. No map of slots is kept: a node that is asked in vain says who knows better.
 */

import { type Node, parseNode } from "./node.ts";
import { StartError } from "../start_error.ts";
import {
  type Access,
  type Argument,
  Connection,
  ConnectionError,
  RedisError,
  type Reply,
  textOf,
} from "./resp.ts";
import { LIBRARY } from "./functions.ts";
import { joinHostPort } from "../../system/address.ts";

/** How long a node may take to accept a connection, and to answer. */
export const PATIENCE_MS = 1000;
/** How long to wait before the next try, when nobody could help. */
const REST_MS = 50;
/** So many nodes may send us on, one to the next. */
const MOST_REDIRECTS = 8;

/** The cluster is not complete, or busy with what is asked for: the same may be asked again. */
const PASSING = [
  ...["TRYAGAIN", "ASK", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "BUSY"],
  // Somebody has to do something about these; until then nothing is acknowledged.
  ...["OOM", "MISCONF", "NOREPLICAS"],
];

/** The cluster cannot be used, whatever is tried; the message says why, and `hint` what to do. */
export class ClusterError extends StartError {
  constructor(message: string, hint = "docs/cluster.md") {
    super(message, hint);
  }
}

/**
 * Finds out, within the time that a node may take, whether one of these nodes lets us in and is part of a
 * cluster. Rejects with a ClusterError that says of each why not.
 */
export async function knock(nodes: readonly Node[], access: Access): Promise<void> {
  const knocks = nodes.map(async (node) => {
    const connection = await Connection.open(node, access, PATIENCE_MS);
    try {
      await connection.call(["CLUSTER", "SLOTS"], PATIENCE_MS);
    } finally {
      connection.close();
    }
  });
  const { errors } = await Promise.any(knocks).then(() => ({ errors: [] }), (error) => error);
  if (errors.length > 0) throw refusalOf(nodes, access, errors);
}

/** What it means that none of the nodes can be used, and what to do about the first that answers. */
function refusalOf(nodes: readonly Node[], access: Access, errors: readonly Error[]): ClusterError {
  const refused = errors.findIndex((error) => error instanceof RedisError);
  if (refused !== -1) {
    return meaningOf(errors[refused] as RedisError, joinHostPort(nodes[refused]!));
  }
  const reasons = errors.map(({ message }, i) => {
    const name = joinHostPort(nodes[i]!);
    return message.startsWith(name) ? message : `${name}: ${message}`;
  });
  const [first] = reasons;
  const hint = /certificate/.test(first!)
    ? "--cluster-ca FILE with the certificate that vouches for theirs"
    : /refused|lookup|cannot be connected to|unreachable/.test(first!)
    ? "--cluster with nodes that answer; docs/cluster.md shows how to start some"
    : access.ca === undefined
    ? "--cluster-ca FILE, if they speak TLS"
    : "leave --cluster-ca out, if they do not speak TLS";
  return new ClusterError(`the cluster cannot be used: ${reasons.join("; ")}`, hint);
}

/** What a refusal of Redis means to an operator; `who` refuses. */
export function meaningOf(error: RedisError, who = "the cluster"): ClusterError {
  const { message, code } = error;
  if (message.includes("cluster support disabled")) {
    return new ClusterError(
      `${who} is a Redis, but no cluster`,
      "a Redis or Valkey with cluster-enabled yes",
    );
  }
  if (/unknown command/i.test(message)) {
    return new ClusterError(`${who} is too old: ${message}`, "Redis 7 or later, or Valkey");
  }
  const hint = PASSING.includes(code)
    ? "redis-cli --cluster check, which says what is wrong with it"
    : "--cluster-user FILE with a user who may do it; docs/cluster.md lists what it takes";
  return new ClusterError(`${who} refuses: ${message}`, hint);
}

export class Primary {
  readonly #access: Access;
  readonly #key: string;
  /** Those that were named, and those that they have named. */
  readonly #nodes = new Map<string, Node>();
  #connection: Connection | undefined;
  /** The connection for which there is nothing to recover any more. */
  #recovered: Connection | undefined;
  #next = 0;
  #closed = false;
  /** Why the last try failed. */
  #reason = "";

  /** Of `key`, in the cluster of which some nodes are given. */
  constructor(nodes: readonly Node[], access: Access, key: string) {
    this.#access = access;
    this.#key = key;
    for (const node of nodes) this.#nodes.set(joinHostPort(node), node);
  }

  /** Why nothing has come of the last try; "" if it succeeded. */
  get reason(): string {
    return this.#reason;
  }

  /**
   * Has commands carried out by the primary, however long it takes to find one, and resolves with their
   * replies. Each may be carried out several times. `recover` is called with each new connection first,
   * until it succeeds.
   * Rejects with a RedisError if one is refused for good, with a ClusterError if the cluster is unusable,
   * and with the last error if `until`, a time of performance.now(), has come.
   */
  async ask(
    commands: readonly (readonly Argument[])[],
    { timeout = PATIENCE_MS, until = Infinity, recover }: {
      timeout?: number;
      until?: number;
      recover?: (connection: Connection) => Promise<void>;
    } = {},
  ): Promise<Reply[]> {
    for (;;) {
      try {
        if (this.#closed) throw new ClusterError("the connection to the cluster was closed");
        const connection = this.#connection === undefined || this.#connection.isClosed
          ? await this.#connect()
          : this.#connection;
        if (this.#recovered !== connection) await recover?.(connection);
        this.#recovered = connection;
        const replies = await connection.pipeline(commands, timeout);
        this.#reason = "";
        return replies;
      } catch (error) {
        await this.#mend(error);
        if (performance.now() >= until) throw error;
        await new Promise((resolve) => setTimeout(resolve, REST_MS));
      }
    }
  }

  close(): void {
    this.#closed = true;
    this.#connection?.close();
  }

  /** Does what an error asks for, so that it can be tried again; throws it if there is no use in that. */
  async #mend(error: unknown): Promise<void> {
    if (this.#closed || !(error instanceof RedisError || error instanceof ConnectionError)) {
      throw error;
    }
    this.#reason = error.message;
    if (error instanceof ConnectionError) {
      this.#connection?.close();
      this.#connection = undefined;
      return;
    }
    if (error.message.includes("Function not found")) {
      await this.#connection?.call(["FUNCTION", "LOAD", "REPLACE", LIBRARY], PATIENCE_MS)
        .catch((error) => this.#mend(error));
      return;
    }
    if (error.code === "MOVED" || error.code === "READONLY" || error.code === "LOADING") {
      this.#connection?.close();
      this.#connection = undefined;
      return;
    }
    if (!PASSING.includes(error.code)) throw error;
  }

  /** A connection to the primary of our key. */
  async #connect(): Promise<Connection> {
    const nodes = [...this.#nodes.values()];
    let node = nodes[this.#next++ % nodes.length]!;
    for (let i = 0; i < MOST_REDIRECTS; i++) {
      const connection = await Connection.open(node, this.#access, PATIENCE_MS);
      this.#connection = connection;
      try {
        await this.#learn(connection);
        // A write in all but effect: a replica sends us to its primary.
        await connection.call(["PERSIST", this.#key], PATIENCE_MS);
        return connection;
      } catch (error) {
        const moved = error instanceof RedisError && error.code === "MOVED"
          ? parseNode(error.message.split(" ")[2] ?? "")
          : undefined;
        if (moved === undefined) {
          // While its slot is moved the key may be here or there: this is still who has to say so.
          if (error instanceof RedisError && error.code === "ASK") return connection;
          connection.close();
          throw error;
        }
        connection.close();
        // A node that does not know its own name leaves it out.
        node = moved.hostname === "" ? { ...moved, hostname: node.hostname } : moved;
      }
    }
    throw new ConnectionError("the nodes of the cluster send us round in a circle");
  }

  async #learn(connection: Connection): Promise<void> {
    const slots = await connection.call(["CLUSTER", "SLOTS"], PATIENCE_MS);
    for (const slot of slots as Reply[][]) {
      for (const found of slot.slice(2) as Reply[][]) {
        const node = { hostname: textOf(found[0]), port: Number(found[1]) };
        if (node.hostname !== "") this.#nodes.set(joinHostPort(node), node);
      }
    }
  }
}
