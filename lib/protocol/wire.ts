/**
 * The wire format, in both directions: docs/protocol.md is its specification. Every field is 64 bits
 * wide and big-endian. A request is a method word, the fields of its method, and, for a write, data:
 *
 *     0       8       16      24
 *     +-------+-------+-------+------ - - -
 *     | word  | field | field | data
 *     +-------+-------+-------+------ - - -
 *
 * A classic method word, that of the paper (section 4), is just the opcode, 0 to 3. A tagged one uses
 * the bytes that classic clients leave zero; so does the reply, with a status and the reply flag:
 *
 *     0       1       2       3       4       5       6       7
 *     +-------+-------+-------+-------+-------+-------+-------+-------+
 *     |              tag              |    status     | flags |opcode |
 *     +-------+-------+-------+-------+-------+-------+-------+-------+
 *
 * A classic reply is a bare pointer or bare data; a tagged one is word, body length and body.
 *
 * The first request of a tagged datagram may carry the session flag, and between its word and its fields
 * what then holds for all of the datagram: the epoch that its pointers belong to, and the token by which
 * the sender proves its address; 0 for neither.
 *
 *     0       8       16      24
 *     +-------+-------+-------+------ - - -
 *     | word  | epoch | token | field ...
 *     +-------+-------+-------+------ - - -
 */

export const DEFAULT_PORT = 8081;

/** Bytes of a field, and of the method word. */
export const FIELD = 8;

/** The largest payload that UDP over IPv4 can carry (RFC 768, RFC 791): 65,535 - 20 - 8 bytes. */
export const MAX_DATAGRAM = 65507;

/** What hello tells in a session: sessions came with version 2. */
export const PROTOCOL_VERSION = 2;

/** What hello says without the session flag, as it did before there was one. */
export const FIRST_VERSION = 1;

/** What follows the method word of a request, and what comes back, in order. */
export interface Layout {
  /** The last byte of the method word. */
  readonly opcode: number;
  /** What follows the word. */
  readonly request: readonly Part[];
  /** What comes back. */
  readonly reply: readonly Part[];
  /** What the reply to a request with the session flag has on top. */
  readonly session?: readonly Part[];
  /** What that has on top if the daemon is part of a cluster. */
  readonly cluster?: readonly Part[];
  /** Whether it changes nothing: its replies are not remembered, and a repeat is carried out again. */
  readonly changesNothing?: true;
}

/**
 * A pointer, a handle, a length and a value are one field each; data is as long as the length before it
 * says.
 */
export type Part = "pointer" | "handle" | "length" | "value" | "data";

/** Functions of malloc(3), accesses to memory, what hello tells, and procedures. */
export type MethodName =
  | "malloc"
  | "free"
  | "read"
  | "write"
  | "realloc"
  | "cas"
  | "add"
  | "hello"
  | "install"
  | "call"
  | "uninstall"
  | "stats"
  | "sync"
  | "snapshot";

/** The whole protocol; everything below is derived from this table. */
export const METHODS: Readonly<Record<MethodName, Layout>> = {
  malloc: { opcode: 0, request: ["length"], reply: ["pointer"] },
  free: { opcode: 1, request: ["pointer"], reply: [] },
  read: { opcode: 2, request: ["pointer", "length"], reply: ["data"], changesNothing: true },
  write: { opcode: 3, request: ["pointer", "length", "data"], reply: [] },
  // The rest exists as tagged requests only.
  realloc: { opcode: 4, request: ["pointer", "length"], reply: ["pointer"] },
  cas: { opcode: 5, request: ["pointer", "value", "value"], reply: ["value"] },
  add: { opcode: 6, request: ["pointer", "value"], reply: ["value"] },
  hello: {
    opcode: 7,
    request: [],
    reply: ["value", "pointer", "length", "length", "value"], // epoch, base, size, largest, version
    session: ["value", "value"], // token, share
    cluster: ["value", "value", "value"], // range, fence, ranges
    changesNothing: true,
  },
  install: { opcode: 8, request: ["pointer", "length"], reply: ["handle"] },
  call: { opcode: 9, request: ["handle", "length", "data"], reply: ["value"] },
  uninstall: { opcode: 10, request: ["handle"], reply: [] },
  // STATS_VALUES or STATS_NAMES
  stats: { opcode: 11, request: ["value"], reply: ["data"], changesNothing: true },
  // number; number, and done
  sync: { opcode: 12, request: ["value"], reply: ["value", "value"], changesNothing: true },
  // the same
  snapshot: { opcode: 13, request: ["value"], reply: ["value", "value"], changesNothing: true },
};

/** What stats may be asked for: its figures, or once their names. */
export const STATS_VALUES = 0;
export const STATS_NAMES = 1;

/** The highest opcode that a classic word may carry: those of the paper. */
const LAST_CLASSIC = METHODS.write.opcode;

/** Bits of the flags byte; all others must be 0. */
export const Flag = { tagged: 0x01, session: 0x02, reply: 0x80 } as const;

/** The same in the lower half of a word. */
const TAGGED_BIT = Flag.tagged << 8;
const SESSION_BIT = Flag.session << 8;
const REPLY_BIT = Flag.reply << 8;

/** What a tagged reply has, beside flags that a malformed request may have brought. */
const ANSWERED = Flag.tagged | Flag.reply;

/** Epoch and token: what comes between the word and the fields of a request with the session flag. */
export const SESSION = 2 * FIELD;

/** Word and body length: what every tagged reply begins with. */
export const REPLY_HEAD = 2 * FIELD;

/** One more than the highest opcode. Some below it may be nobody's. */
export const OPCODES: number = 1 +
  Math.max(...Object.values(METHODS).map(({ opcode }) => opcode));

/**
 * By what may stand for an opcode, 0 for no method: bytes before the data, where the pointer and the
 * length lie, 0 for nowhere, a byte each from the lowest, and whether data comes. One table, because
 * every request asks for all of it.
 */
const LAYOUT = new Int32Array(256);
const POINTER_AT = 8;
const LENGTH_AT = 16;
const CARRIES_DATA = 1 << 24;

/** By opcode: bytes that the fields of a reply take; data comes on top. */
export const REPLY_BODY = new Uint8Array(OPCODES);

/** By opcode: the same of the reply to a request with the session flag. */
export const SESSION_REPLY_BODY = new Uint8Array(OPCODES);

/** By opcode: the same if the daemon is part of a cluster. */
export const CLUSTER_REPLY_BODY = new Uint8Array(OPCODES);

/** By opcode, 1 for methods that change nothing. */
export const CHANGES_NOTHING = new Uint8Array(OPCODES);

/** What a reply of status EREMOTE tells: an IPv6 address of 16 bytes, or a mapped IPv4 address, and a port. */
export const OWNER_BODY = 3 * FIELD;

for (const method of Object.values(METHODS)) {
  const { opcode, request, reply, session = [], cluster = [], changesNothing } = method;
  if (LAYOUT[opcode] !== 0) {
    throw new Error(`Cannot derive the protocol: two methods are ${opcode}`);
  }
  let at = FIELD;
  for (const part of request) {
    if (part === "pointer" || part === "handle") LAYOUT[opcode]! |= at << POINTER_AT;
    if (part === "length") LAYOUT[opcode]! |= at << LENGTH_AT;
    if (part === "data") LAYOUT[opcode]! |= CARRIES_DATA;
    else at += FIELD;
  }
  LAYOUT[opcode]! |= at;
  REPLY_BODY[opcode] = FIELD * reply.filter((part) => part !== "data").length;
  SESSION_REPLY_BODY[opcode] = REPLY_BODY[opcode]! + FIELD * session.length;
  CLUSTER_REPLY_BODY[opcode] = SESSION_REPLY_BODY[opcode]! + FIELD * cluster.length;
  CHANGES_NOTHING[opcode] = changesNothing ? 1 : 0;
}

/** What a method word says about the datagram that it begins. */
export const Word = { classic: 0, tagged: 1, reply: 2, unknown: 3 } as const;
export type Word = (typeof Word)[keyof typeof Word];

export function wordAt(bytes: DataView, at: number): Word {
  const low = bytes.getInt32(at + 4);
  if ((low & REPLY_BIT) !== 0) return Word.reply;
  if ((low & TAGGED_BIT) !== 0) return Word.tagged;
  return low >>> 0 <= LAST_CLASSIC && bytes.getInt32(at) === 0 ? Word.classic : Word.unknown;
}

/** What `decodeRequest` found. One is used again and again, so that decoding makes no garbage. */
export class Request {
  /** Which method, as in METHODS. */
  opcode = 0;
  /** Flags, status and tag as they came; all 0 in a classic request. */
  flags = 0;
  /** Must be 0. */
  status = 0;
  /** Tells replies apart; chosen by the client. */
  tag = 0;
  /**
   * A pointer, or a handle. Doubles: from 2^53 on they are rounded, and beyond every bound that they are
   * checked against.
   */
  pointer = 0;
  /** Of what is allocated or accessed, in bytes. */
  length = 0;
  /** Where the fields begin, after the word and what a session brings. */
  fields = 0;
  /** Where the parts after the pointer begin: the data of a write, the values of cas and add. */
  rest = 0;
  /** Bytes of the whole request, so that the next one of a datagram starts here. */
  size = 0;

  /** Whether it is one of the paper's. */
  get isClassic(): boolean {
    return (this.flags | this.status | this.tag) === 0 && this.opcode <= LAST_CLASSIC;
  }

  /** Whether its word is that of a tagged request, which says nothing about the rest of it. */
  get isTagged(): boolean {
    return (this.flags & ANSWERED) === Flag.tagged;
  }
}

/** `decodeRequest` could not go on: the opcode is not one of METHODS, or the datagram is too short. */
export const Decoded = { whole: 0, truncated: 1, unknownMethod: 2 } as const;
/** One of the above. */
export type Decoded = (typeof Decoded)[keyof typeof Decoded];

/**
 * Decodes the request at `at`, of which `available` bytes have come, at least a method word. The fields
 * of the word are set whatever the result; the others only if the request is whole.
 */
export function decodeRequest(
  bytes: DataView,
  at: number,
  available: number,
  request: Request,
): Decoded {
  const low = bytes.getInt32(at + 4);
  const opcode = low & 0xff;
  request.opcode = opcode;
  request.flags = low >>> 8 & 0xff;
  request.status = low >>> 16;
  request.tag = bytes.getInt32(at);
  const layout = LAYOUT[opcode]!;
  if (layout === 0) return Decoded.unknownMethod;
  const session = (low & SESSION_BIT) === 0 ? 0 : SESSION;
  const head = session + (layout & 0xff);
  if (available < head) return Decoded.truncated;
  const start = at + session; // where the word would be, if there were no session
  const pointerAt = layout >>> POINTER_AT & 0xff;
  const lengthAt = layout >>> LENGTH_AT & 0xff;
  request.pointer = pointerAt === 0 ? 0 : fieldAt(bytes, start + pointerAt);
  request.length = lengthAt === 0 ? 0 : fieldAt(bytes, start + lengthAt);
  request.fields = start + FIELD;
  request.size = head;
  request.rest = start + pointerAt + FIELD;
  if (layout < CARRIES_DATA) return Decoded.whole;
  request.rest = at + head;
  if (request.length > available - head) return Decoded.truncated;
  request.size = head + (request.length | 0); // a double would make one of all that it is added to
  return Decoded.whole;
}

/** The size of the request at `at`, as `decodeRequest` finds it; 0 if that is not whole. */
export function requestSize(bytes: DataView, at: number, available: number): number {
  const low = bytes.getInt32(at + 4);
  const layout = LAYOUT[low & 0xff]!;
  if (layout === 0) return 0;
  const session = (low & SESSION_BIT) === 0 ? 0 : SESSION;
  const head = session + (layout & 0xff);
  if (available < head) return 0;
  if (layout < CARRIES_DATA) return head;
  const length = fieldAt(bytes, at + session + (layout >>> LENGTH_AT & 0xff));
  return length > available - head ? 0 : head + (length | 0);
}

/** What the first request of a datagram says for all of it; 0 where there is nothing to say. */
export interface Session {
  /** What hello told when the pointers were given out. */
  epoch: bigint;
  /** What hello gave to this address and port. */
  token: bigint;
}

/**
 * The twin of `decodeRequest`: writes the request of a client at `at` and returns its length in bytes.
 * `fields` are those of METHODS in order; `tag` makes it a tagged request, `session` one with the session
 * flag. Data lengths are the caller's.
 */
export function encodeRequest(
  bytes: DataView,
  at: number,
  method: MethodName,
  fields: readonly bigint[],
  { tag, data, session }: { tag?: number; data?: Uint8Array; session?: Session } = {},
): number {
  const { opcode } = METHODS[method];
  const flags = (tag === undefined ? 0 : Flag.tagged) | (session === undefined ? 0 : Flag.session);
  bytes.setUint32(at, tag ?? 0);
  bytes.setUint32(at + 4, flags << 8 | opcode);
  let end = at + FIELD;
  for (const field of session === undefined ? fields : [session.epoch, session.token, ...fields]) {
    bytes.setBigUint64(end, field);
    end += FIELD;
  }
  if (data === undefined) return end - at;
  new Uint8Array(bytes.buffer, bytes.byteOffset).set(data, end);
  return end + data.length - at;
}

/** What `decodeReply` found. */
export class Reply {
  /** That of the request. */
  opcode = 0;
  /** That of the request. */
  tag = 0;
  /** 0, or an errno. */
  status = 0;
  /** Where the body begins. */
  body = 0;
  /** Bytes of the body. */
  bodyLength = 0;
  /** Bytes of the whole reply, so that the next one of a datagram starts here. */
  size = 0;
}

/**
 * Writes the head of a tagged reply: the word of the request with the reply flag and a status (0 or an
 * errno), and the body's length. The body follows at `at + REPLY_HEAD`.
 */
export function encodeReplyHead(
  bytes: DataView,
  at: number,
  request: Request,
  status: number,
  bodyLength: number,
): void {
  bytes.setInt32(at, request.tag);
  bytes.setInt32(at + 4, status << 16 | (request.flags | Flag.reply) << 8 | request.opcode);
  bytes.setInt32(at + 8, 0);
  bytes.setInt32(at + 12, bodyLength);
}

/** The twin of `encodeReplyHead`: false if what lies between `at` and `end` is no whole tagged reply. */
export function decodeReply(bytes: DataView, at: number, end: number, reply: Reply): boolean {
  if (end - at < REPLY_HEAD) return false;
  const low = bytes.getUint32(at + 4);
  if ((low >>> 8 & ANSWERED) !== ANSWERED) return false;
  reply.tag = bytes.getUint32(at);
  reply.status = low >>> 16;
  reply.opcode = low & 0xff;
  reply.body = at + REPLY_HEAD;
  reply.bodyLength = fieldAt(bytes, at + FIELD);
  reply.size = REPLY_HEAD + reply.bodyLength;
  return reply.size <= end - at;
}

/**
 * A 64-bit field as a double, exact below 2^53. Two halves, because a BigInt is garbage: this takes
 * 4 ns, `Number(getBigUint64())` takes 36.
 */
export function fieldAt(bytes: DataView, at: number): number {
  return bytes.getUint32(at) * 2 ** 32 + bytes.getUint32(at + 4);
}

/** The twin of `fieldAt`, for values below 2^53. */
export function setField(bytes: DataView, at: number, value: number): void {
  bytes.setUint32(at, value / 2 ** 32);
  bytes.setUint32(at + 4, value); // modulo 2^32
}
