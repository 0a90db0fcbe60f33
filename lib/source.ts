/**
 * Senders as bytes: where a datagram came from, in the layout of the kernel's socket addresses, so that
 * an engine that gets them from the kernel has nothing to do; and who of them is admitted.
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

const FAMILY_INET = 2;
const FAMILY_INET6 = 10;
const IPV4_BITS = 32;
const IPV6_BITS = 128;
/** An IPv4 address among IPv6 addresses is ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2). */
const MAPPED = 0xffff;

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

/** The network and the mask of a CIDR block (RFC 4632), four words each. Undefined if it is none. */
export function parseCidr(text: string): { network: Int32Array; mask: Int32Array } | undefined {
  const match = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text);
  const words = parseAddress(match?.[1] ?? "");
  if (match === null || words === undefined) return undefined;
  const width = text.includes(":") ? IPV6_BITS : IPV4_BITS;
  const length = match[2] === undefined ? width : Number(match[2]);
  if (length > width) return undefined;
  const prefix = IPV6_BITS - width + length;
  const mask = new Int32Array(4);
  for (let i = 0; i < 4; i++) {
    const bits = Math.min(Math.max(prefix - 32 * i, 0), 32);
    mask[i] = bits === 0 ? 0 : -1 << (32 - bits);
  }
  return { network: Int32Array.from(words, (word, i) => word & mask[i]!), mask };
}

/** Who may talk to the daemon. Checking makes no garbage. */
export class Admission {
  readonly #blocks: { network: Int32Array; mask: Int32Array }[] | undefined;
  readonly #ownPort: number;

  /** Admits the senders in the CIDR blocks, or, if there is no list, everybody. */
  constructor(allow: readonly string[] | undefined, ownPort: number) {
    this.#blocks = allow?.map((text) => {
      const block = parseCidr(text);
      if (block === undefined) throw new TypeError(`Cannot parse CIDR block: ${text}`);
      return block;
    });
    this.#ownPort = ownPort;
  }

  /**
   * A sender on the daemon's own port number is most likely another mallocd, or a forged datagram that
   * wants two of them to answer each other for ever (CVE-2024-2169).
   */
  admits(bytes: DataView, source: number): boolean {
    if (bytes.getUint16(source + 2) === this.#ownPort) return false;
    return this.#blocks === undefined || this.#isListed(this.#blocks, bytes, source);
  }

  #isListed(
    blocks: readonly { network: Int32Array; mask: Int32Array }[],
    bytes: DataView,
    source: number,
  ): boolean {
    const mapped = bytes.getUint16(source, true) === FAMILY_INET;
    for (let i = 0; i < blocks.length; i++) {
      const { network, mask } = blocks[i]!;
      const differs = mapped
        ? network[0]! | network[1]! | (MAPPED & mask[2]!) ^ network[2]! |
          (bytes.getInt32(source + 4) & mask[3]!) ^ network[3]!
        : (bytes.getInt32(source + 8) & mask[0]!) ^ network[0]! |
          (bytes.getInt32(source + 12) & mask[1]!) ^ network[1]! |
          (bytes.getInt32(source + 16) & mask[2]!) ^ network[2]! |
          (bytes.getInt32(source + 20) & mask[3]!) ^ network[3]!;
      if (differs === 0) return true;
    }
    return false;
  }
}
