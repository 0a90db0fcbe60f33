/** The table of all ranges: who owns which, as far as their owners have told. It is one key of the cluster. */

import { Primary } from "./primary.ts";
import type { ClusterOptions } from "./range.ts";
import { type Node, parseNode } from "./node.ts";
import { mapOf, textOf } from "./resp.ts";
import { joinHostPort } from "../../system/address.ts";

const OWNERS = "mallocd:owners";
/** Counts the changes of the table, of which it is a field. */
const OWNERS_VERSION = "version";

export class Owners {
  readonly #primary: Primary;
  #version: string | undefined;

  constructor({ nodes, access }: ClusterOptions) {
    this.#primary = new Primary(nodes, access, OWNERS);
  }

  async tell(range: number, owner: Node): Promise<void> {
    await this.#primary.ask([
      ["HSET", OWNERS, range, joinHostPort(owner)],
      ["HINCRBY", OWNERS, OWNERS_VERSION, 1],
    ]);
  }

  /** All that is known, or undefined if it is what it was at the last call. Gives up at that time. */
  async changes(until = Infinity): Promise<ReadonlyMap<number, Node> | undefined> {
    const [version] = await this.#primary.ask([["HGET", OWNERS, OWNERS_VERSION]], { until });
    if (this.#version !== undefined && textOf(version) === this.#version) return undefined;
    const [reply] = await this.#primary.ask([["HGETALL", OWNERS]]);
    const fields = mapOf(reply);
    this.#version = fields.get(OWNERS_VERSION) ?? "";
    fields.delete(OWNERS_VERSION);
    const owners = new Map<number, Node>();
    for (const [range, address] of fields) {
      const node = parseNode(address);
      if (node !== undefined) owners.set(Number(range), node);
    }
    return owners;
  }

  close(): void {
    this.#primary.close();
  }
}
