/**
 * Senders as bytes: where a datagram came from, in the layout of the kernel's socket addresses, so that
 * an engine that gets them from the kernel has nothing to do.
 *
 *     0       2       4               8
 *     +-------+-------+---------------+---------------+
 *     |   2   | port  | IPv4 address  | zeros                                       sockaddr_in
 *     +-------+-------+---------------+---------------+---------------+-------
 *     |  10   | port  |  flow (zero)  | IPv6 address, 16 bytes        | scope       sockaddr_in6
 *     +-------+-------+---------------+---------------+---------------+-------
 *     0       2       4               8                               24     28
 *
 * The family is little-endian, as on every machine that Deno runs on, all else big-endian.
 */

/** RFC 2553 and ip(7): the longer of the two, a sockaddr_in6. */
export const SOURCE_BYTES = 28;
/** Where a sockaddr_in6 has its scope, little-endian. */
export const SCOPE = 24;

export const FAMILY_INET = 2;
const FAMILY_INET6 = 10;
/** The family in a sourceHead, which is read big-endian. */
const HEAD_INET = FAMILY_INET << 8;
/** An IPv4 address among IPv6 addresses is ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2). */
export const MAPPED = 0xffff;

/** The four 32-bit words of an address; those of an IPv4 address are mapped. Undefined if it is none. */
export function parseAddress(text: string): [number, number, number, number] | undefined {
  if (!text.includes(":")) {
    const word = parseIPv4(text);
    return word === undefined ? undefined : [0, 0, MAPPED, word];
  }
  const [address = ""] = text.split("%"); // without the zone
  const halves = address.split("::").map((half, i, { length }) =>
    parseGroups(half, i === length - 1)
  );
  const [head, tail] = halves;
  if (head === undefined || halves.length > 2 || halves.includes(undefined)) return undefined;
  const missing = 8 - head.length - (tail?.length ?? 0);
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const groups = [...head, ...new Array<number>(missing).fill(0), ...(tail ?? [])];
  const word = (i: number) => (groups[2 * i]! << 16 | groups[2 * i + 1]!) >>> 0;
  return [word(0), word(1), word(2), word(3)];
}

/** A mapped address as the IPv4 address that it is; any other text as it stands. */
export function unmap(hostname: string): string {
  const words = hostname.includes(":") ? parseAddress(hostname) : undefined;
  if (words === undefined) return hostname;
  const [a, b, c, d] = words;
  if ((a | b) !== 0 || c !== MAPPED) return hostname;
  return [d >>> 24, d >>> 16 & 0xff, d >>> 8 & 0xff, d & 0xff].join(".");
}

/** The twin of parseAddress for the 16 bytes at `at`; an IPv4 address that is mapped is written as one. */
export function formatAddress(bytes: DataView, at: number): string {
  const mapped = bytes.getInt32(at) === 0 && bytes.getInt32(at + 4) === 0 &&
    bytes.getInt32(at + 8) === MAPPED;
  if (mapped) return [12, 13, 14, 15].map((i) => bytes.getUint8(at + i)).join(".");
  const groups = Array.from({ length: 8 }, (_, i) => bytes.getUint16(at + 2 * i).toString(16));
  return groups.join(":");
}

/** `192.0.2.1:8081`, and `[2001:db8::1]:8081`. */
export function joinHostPort({ hostname, port }: { hostname: string; port: number }): string {
  return hostname.includes(":") ? `[${hostname}]:${port}` : `${hostname}:${port}`;
}

function parseIPv4(text: string): number | undefined {
  const bytes = text.split(".");
  // Without leading zeros: inet_aton(3) would take such a number for octal, and mean another address.
  const valid = bytes.every((byte) => /^(0|[1-9]\d{0,2})$/.test(byte) && Number(byte) <= 255);
  if (bytes.length !== 4 || !valid) return undefined;
  return bytes.reduce((word, byte) => word * 256 + Number(byte), 0);
}

/** The 16-bit groups of one side of "::", of which the very last may be an IPv4 address. */
function parseGroups(text: string, endsAddress: boolean): number[] | undefined {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":");
  for (const [i, part] of parts.entries()) {
    const word = endsAddress && i === parts.length - 1 ? parseIPv4(part) : undefined;
    if (word !== undefined) groups.push(word >>> 16, word & 0xffff);
    else if (/^[0-9a-f]{1,4}$/i.test(part)) groups.push(parseInt(part, 16));
    else return undefined;
  }
  return groups;
}

/** Writes the sender's SOURCE_BYTES to `at`. The hostname must be an address, as sockets give it. */
export function writeSource(bytes: DataView, at: number, hostname: string, port: number): void {
  const words = parseAddress(hostname);
  if (words === undefined) throw new TypeError(`Cannot parse address: ${hostname}`);
  for (let i = 0; i < SOURCE_BYTES; i += 4) bytes.setInt32(at + i, 0);
  const mapped = !hostname.includes(":");
  bytes.setUint16(at, mapped ? FAMILY_INET : FAMILY_INET6, true);
  bytes.setUint16(at + 2, port);
  if (mapped) bytes.setUint32(at + 4, words[3]);
  else words.forEach((word, i) => bytes.setUint32(at + 8 + 4 * i, word));
}

/** Whether an address can be reached from this host only. */
export function isLoopback(hostname: string): boolean {
  const words = parseAddress(hostname);
  if (words === undefined) return hostname === "localhost";
  const [a, b, c, d] = words;
  if (a !== 0 || b !== 0) return false;
  return c === MAPPED ? d >>> 24 === 127 : c === 0 && d === 1;
}

/** Family and port of the sender whose SOURCE_BYTES stand at `at`: one word, which each datagram is asked for. */
export function sourceHead(bytes: DataView, at: number): number {
  return bytes.getInt32(at);
}

/** The port in a sourceHead. */
export function portIn(head: number): number {
  return head & 0xffff;
}

/** Whether the sender at `at`, with this sourceHead, can be this host only, as `isLoopback` has it. */
export function isLoopbackSource(head: number, bytes: DataView, at: number): boolean {
  return head >>> 16 === HEAD_INET ? bytes.getUint8(at + 4) === 127 : isLoopbackSource6(bytes, at);
}

function isLoopbackSource6(bytes: DataView, at: number): boolean {
  if ((bytes.getInt32(at + 8) | bytes.getInt32(at + 12)) !== 0) return false;
  const c = bytes.getInt32(at + 16);
  if (c === MAPPED) return bytes.getUint8(at + 20) === 127;
  return c === 0 && bytes.getInt32(at + 20) === 1;
}

/** Whether an address stands for all of this host's: 0.0.0.0, ::, or the mapped form of the former. */
export function isWildcard(hostname: string): boolean {
  const words = parseAddress(hostname);
  if (words === undefined) return false;
  const [a, b, c, d] = words;
  return (a | b | d) === 0 && (c === 0 || c === MAPPED);
}
