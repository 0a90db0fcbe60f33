/** A node of a cluster, by the address that it listens on. */

export interface Node {
  readonly hostname: string;
  readonly port: number;
}

/** The twin of joinHostPort(): `host:port` or `[v6]:port`; undefined if it is neither. */
export function parseNode(text: string): Node | undefined {
  const match = /^(?:\[([^\]]+)\]|([^\s[\]]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port < 1 || port > 65535) return undefined;
  return { hostname: match[1] ?? match[2]!, port };
}
