/** What a daemon tells about itself. */

import { CLUSTER_REPLY_BODY, FIELD, METHODS } from "../protocol/wire.ts";

/** What it tells when it is asked. */
export interface Hello {
  /** Random at the daemon's start, or a range's in a cluster: when it changes, all pointers are gone. */
  readonly epoch: bigint;
  /** The address of the heap's first byte. */
  readonly base: bigint;
  /** Bytes of the heap. */
  readonly size: bigint;
  /** Bytes of the largest datagram that the daemon takes or sends. */
  readonly largestDatagram: number;
  /** The version of the wire format. */
  readonly version: number;
  /** If it is part of a cluster. */
  readonly cluster?: Cluster;
}

/** Which part of a cluster a daemon is. */
export interface Cluster {
  /** The part of the address space that its heap is. */
  readonly range: number;
  /** Higher for each daemon that has had the range. */
  readonly fence: bigint;
  /** How many ranges there are. */
  readonly ranges: number;
}

/** Where the three fields of a cluster lie. */
const CLUSTER_AT = CLUSTER_REPLY_BODY[METHODS.hello.opcode]! - 3 * FIELD;

/** What the body of a reply to hello says. */
export function decodeHello(body: Uint8Array): Hello {
  return {
    epoch: asBigInt(body),
    base: asBigInt(body, FIELD),
    size: asBigInt(body, 2 * FIELD),
    largestDatagram: Number(asBigInt(body, 3 * FIELD)),
    version: Number(asBigInt(body, 4 * FIELD)),
    ...body.length > CLUSTER_AT && {
      cluster: {
        range: Number(asBigInt(body, CLUSTER_AT)),
        fence: asBigInt(body, CLUSTER_AT + FIELD),
        ranges: Number(asBigInt(body, CLUSTER_AT + 2 * FIELD)),
      },
    },
  };
}

/**
 * The field at `at`. A DataView would be shorter, but to ask a small array for its buffer makes V8
 * allocate one outside its heap, and the garbage collector would take half of the time of many calls.
 */
export function asBigInt(body: Uint8Array, at = 0): bigint {
  const half = (i: number) =>
    (body[i]! << 24 | body[i + 1]! << 16 | body[i + 2]! << 8 | body[i + 3]!) >>> 0;
  return BigInt(half(at)) << 32n | BigInt(half(at + 4));
}
