/** What the load generator is to send: which methods, how often each, and blocks of which sizes. */

import { formatSize, parseSize } from "../../cli/sizes.ts";
import { FIELD, MAX_DATAGRAM, METHODS, SESSION } from "../../protocol/wire.ts";

const MIXED = ["read", "write", "malloc", "free", "realloc", "cas", "add"] as const;
export type Mixed = (typeof MIXED)[number];

/** How many requests of each method there are in as many as all of them together. */
export type Mix = Readonly<Record<Mixed, number>>;

const MAX_WEIGHT = 1000;

/** The mix of `read=70,write=20,malloc=5,free=5`; undefined if the text is none. */
export function parseMix(text: string): Mix | undefined {
  const mix = Object.fromEntries(MIXED.map((name) => [name, 0])) as Record<Mixed, number>;
  const named = new Set<string>();
  for (const part of text.split(",")) {
    const [, name, digits] = /^(\w+)=(\d+)$/.exec(part) ?? [];
    const method = MIXED.find((method) => method === name);
    const weight = Number(digits);
    if (method === undefined || named.has(method) || weight > MAX_WEIGHT) return undefined;
    named.add(method);
    mix[method] = weight;
  }
  return Object.values(mix).some((weight) => weight > 0) ? mix : undefined;
}

/** Opcodes, each as often as it has weight: a random element is a random method. */
export function opcodesOf(mix: Mix): Uint8Array {
  return Uint8Array.from(
    MIXED.flatMap((name) => new Array<number>(mix[name]).fill(METHODS[name].opcode)),
  );
}

/** Lengths of blocks, from `min` to `max`. */
export interface Sizes {
  readonly min: number;
  readonly max: number;
  /** Whether each doubling is equally likely, so that small ones are many; otherwise each length is. */
  readonly log: boolean;
}

/** The sizes of `64`, `16-1024`, `64-1KiB` or `log:16-1024`; undefined if the text is none. */
export function parseSizes(text: string): Sizes | undefined {
  const match = /^(?:(log:)?([^-]+)-)?([^-]+)$/.exec(text);
  const max = parseSize(match?.[3] ?? "");
  const min = match?.[2] === undefined ? max : parseSize(match[2]);
  if (min === undefined || max === undefined || min < 1 || min > max) return undefined;
  return { min, max, log: match?.[1] !== undefined };
}

/** The length that a number from 0 to 1, without 1, falls on. */
export function pickLength({ min, max, log }: Sizes, random: number): number {
  if (!log) return min + Math.floor(random * (max - min + 1));
  return Math.min(max, Math.floor(min * ((max + 1) / min) ** random));
}

export interface Workload {
  /** Classic requests are answered in order, and travel one in a datagram. */
  readonly protocol: "tagged" | "classic";
  readonly clients: number;
  /** Datagrams that each client may have in flight. */
  readonly inFlight: number;
  /** Requests in each of them. */
  readonly perDatagram: number;
  readonly mix: Mix;
  readonly sizes: Sizes;
  /** Requests a second of all clients together, for an open loop. */
  readonly rate?: number | undefined;
  /** Milliseconds after which a datagram without a reply is lost. */
  readonly timeout: number;
  /** Whether clients of the tagged protocol prove their addresses first, as on a network they have to. */
  readonly proves?: boolean;
}

/** Why there can be no such load, undefined if there can. */
export function problemOf(
  { protocol, perDatagram, mix, sizes, proves = false }: Workload,
): string | undefined {
  if (protocol === "classic" && perDatagram > 1) {
    return "a classic datagram holds one request";
  }
  if (protocol === "classic" && mix.read + mix.malloc === 0) {
    return "the classic protocol answers only read and malloc: the mix needs one of them";
  }
  if (protocol === "classic" && mix.realloc + mix.cas + mix.add > 0) {
    return "the classic protocol has no realloc, cas and add: leave them out of --mix";
  }
  const session = proves ? SESSION : 0;
  const most = Math.floor((MAX_DATAGRAM - session) / perDatagram) - 3 * FIELD;
  if (most < Math.max(sizes.max, FIELD)) {
    const remedy = most < FIELD ? "use fewer" : `with --size ${most} they would fit`;
    return `--per-datagram ${perDatagram} writes of ${sizes.max} bytes are more than a datagram can carry: ${remedy}`;
  }
  return undefined;
}

/** What Linux gives a socket for what it has not received yet, unless it is told otherwise. */
const BUFFER = 208 * 1024;
/** What it counts a datagram as, beside its own bytes, at least. */
const BOOKKEEPING = 768;

/** Why datagrams may have been lost, and what to do about it. */
export function lossOf({ clients, inFlight, perDatagram, sizes, timeout }: Workload): string {
  const bytes = clients * inFlight * (perDatagram * (3 * FIELD + sizes.max) + BOOKKEEPING);
  return bytes > BUFFER
    ? `up to ${
      formatSize(toKiB(bytes))
    } were in flight at a time, and a socket's receive buffer may hold ` +
      `no more than ${formatSize(BUFFER)}: use fewer --in-flight or --clients, or a smaller --size`
    : `the network or the daemon lost them, or it took longer than --timeout ${timeout / 1000}s`;
}

/** Whole KiB, for nobody wants to read more digits. */
function toKiB(bytes: number): number {
  return Math.ceil(bytes / 1024) * 1024;
}
