/** Who may talk to the daemon: networks as CIDR blocks, compared with senders' socket addresses. */

import { FAMILY_INET, MAPPED, parseAddress, portIn } from "../system/address.ts";

const IPV4_BITS = 32;
const IPV6_BITS = 128;

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

/** Ports below this are those of services (IANA's system ports), none of which sends us requests. */
const FIRST_USER_PORT = 1024;

/** Why a datagram is ignored because of its sender. */
export const Drop = { ownPort: 0, lowPort: 1, network: 2, session: 3 } as const;

/** Of `drops`: it is not ignored. */
export const ADMITTED = -1;

/** Who may talk to the daemon. Checking makes no garbage. */
export class Admission {
  readonly #blocks: { network: Int32Array; mask: Int32Array }[] | undefined;
  readonly #ownPort: number;
  readonly #firstPort: number;

  /** Admits the senders in the CIDR blocks, or, if there is no list, everybody. */
  constructor(allow: readonly string[] | undefined, ownPort: number, lowPorts = false) {
    this.#blocks = allow?.map((text) => {
      const block = parseCidr(text);
      if (block === undefined) throw new TypeError(`Cannot parse CIDR block: ${text}`);
      return block;
    });
    this.#ownPort = ownPort;
    this.#firstPort = lowPorts ? 0 : FIRST_USER_PORT;
  }

  /**
   * Why a datagram is to be ignored, as Drop has it, or ADMITTED; `head` is the sourceHead at `source`. A
   * sender on the daemon's own port number is most likely another mallocd, or a forged datagram that wants
   * two of them to answer each other for ever (CVE-2024-2169). One on a port below 1024 is most likely a
   * service, whose address was forged so that it gets what the forger chose.
   */
  drops(head: number, bytes: DataView, source: number): number {
    const port = portIn(head);
    if (port === this.#ownPort) return Drop.ownPort;
    if (port < this.#firstPort) return Drop.lowPort;
    return this.#blocks === undefined || this.#isListed(this.#blocks, bytes, source)
      ? ADMITTED
      : Drop.network;
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
