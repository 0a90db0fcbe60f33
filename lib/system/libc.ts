/**
 * What the syscall engine uses of Linux: functions of libc, constants, and structs, for the two
 * architectures that Deno runs on there. Both have 64-bit pointers, the same layouts and the same
 * numbers (asm-generic), and are little-endian.
 */

/** This system, or what is permitted on it, is not enough for system calls; the message says why. */
export class Unavailable extends Error {
  override readonly name = "Unavailable";
}

/** Where distributions keep glibc: Debian and Ubuntu; Fedora, RHEL and SUSE; Arch. */
export const LIBC_PATHS: readonly string[] = [
  `/lib/${Deno.build.arch}-linux-gnu/libc.so.6`,
  "/lib64/libc.so.6",
  "/usr/lib/libc.so.6",
];

/** A struct of C: its size, and the offset of each of its fields. */
type Struct<Field extends string> = Readonly<Record<Field | "size", number>>;

/** Lays out fields of the given sizes, each aligned to its own size, as C does. */
function struct<Field extends string>(
  size: number,
  fields: Readonly<Record<Field, number>>,
): Struct<Field> {
  const align = (at: number, bytes: number) => Math.ceil(at / bytes) * bytes;
  const sizes: [string, number][] = Object.entries(fields);
  let end = 0;
  const offsets = sizes.map(([name, bytes]) => {
    const at = align(end, bytes);
    end = at + bytes;
    return [name, at];
  });
  end = align(end, Math.max(...Object.values<number>(fields)));
  if (end !== size) throw new Error(`Cannot lay out a struct of ${size} bytes: it takes ${end}`);
  return Object.fromEntries([...offsets, ["size", size]]);
}

/**
 * A message, 56 bytes that end in padding, and the length of what was received or sent of it.
 *
 *     0               8               16              24
 *     +-------+-------+-------+-------+-------+-------+-------+-------+
 *     |     name      |nameLen|       |    iovecs     |   iovecCount  |
 *     +-------+-------+-------+-------+-------+-------+-------+-------+
 *     |    control    | controlLength | flags |       |length |       |
 *     +-------+-------+-------+-------+-------+-------+-------+-------+
 *     32              40              48              56
 */
export const MMSGHDR = struct(64, {
  name: 8,
  nameLength: 4,
  iovecs: 8,
  iovecCount: 8,
  control: 8,
  controlLength: 8,
  flags: 4,
  padding: 4,
  length: 4,
});
export const IOVEC = struct(16, { base: 8, length: 8 });
/** Before the data of a control message; `length` counts both. */
export const CMSGHDR = struct(16, { length: 8, level: 4, type: 4 });
export const POLLFD = struct(8, { fd: 4, events: 2, revents: 2 });
export const TIMESPEC = struct(16, { seconds: 8, nanoseconds: 8 });
/** A program of classic BPF, <linux/filter.h>: how many instructions of 8 bytes, and where they are. */
export const SOCK_FPROG = struct(16, { length: 2, filter: 8 });

/** What a control message with so much data takes, CMSG_SPACE of cmsg(3). */
export function controlSpace(data: number): number {
  return CMSGHDR.size + Math.ceil(data / 8) * 8;
}

/** <bits/socket.h>, <asm-generic/socket.h>, <linux/in.h>, <linux/in6.h>, <linux/udp.h> */
export const AF_UNIX = 1;
export const SOCK_DGRAM = 2;
export const SOCK_CLOEXEC = 0o2000000;
export const SHUT_RD = 0;
export const SOL_IP = 0;
export const SOL_SOCKET = 1;
export const SO_SNDBUF = 7;
export const SO_RCVBUF = 8;
export const SO_REUSEPORT = 15;
export const SO_SNDBUFFORCE = 32;
export const SO_RCVBUFFORCE = 33;
export const SO_RCVTIMEO = 20;
export const SO_RXQ_OVFL = 40;
export const SO_ATTACH_REUSEPORT_CBPF = 51;
export const SOL_IPV6 = 41;
export const IP_PKTINFO = 8;
export const IPV6_RECVPKTINFO = 49;
export const IPV6_PKTINFO = 50;
export const SOL_UDP = 17;
export const UDP_SEGMENT = 103;
export const UDP_GRO = 104;
export const POLLIN = 1;
export const MSG_DONTWAIT = 0x40;
export const MSG_WAITFORONE = 0x10000;
/** <linux/time.h> */
export const CLOCK_MONOTONIC = 1;

/** <asm-generic/errno-base.h>, <asm-generic/errno.h> */
export const Errno = {
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EAGAIN: 11,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EINVAL: 22,
  ENOSPC: 28,
  EMSGSIZE: 90,
  EADDRINUSE: 98,
  EADDRNOTAVAIL: 99,
  ENOSYS: 38,
  ECONNREFUSED: 111,
} as const;

/**
 * Memory is named in two ways: by a buffer, which is convenient, and by an address, which is what the hot
 * path uses. Addresses are BigInts that are made once: a BigInt passed on costs nothing, but a number in
 * its place would deoptimise the caller, and a new BigInt would be garbage.
 */
const SYMBOLS = {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  recvmmsg: { parameters: ["i32", "usize", "u32", "i32", "usize"], result: "i32" },
  sendmmsg: { parameters: ["i32", "usize", "u32", "i32"], result: "i32" },
  sendto: {
    parameters: ["i32", "buffer", "usize", "i32", "buffer", "u32"],
    result: "isize",
  },
  clock_gettime: { parameters: ["i32", "usize"], result: "i32" },
  poll: { parameters: ["usize", "usize", "i32"], result: "i32" },
  madvise: { parameters: ["usize", "usize", "i32"], result: "i32" },
  errnoLocation: { name: "__errno_location", parameters: [], result: "usize" },
  // Deno.UnsafePointer needs permission for all libraries; this needs it for libc only.
  addressOf: { name: "memmove", parameters: ["buffer", "buffer", "usize"], result: "usize" },
  copy: { name: "memmove", parameters: ["usize", "usize", "usize"], result: "void" },
} as const satisfies Deno.ForeignLibraryInterface;

type Symbols = Deno.StaticForeignLibraryInterface<typeof SYMBOLS>;
type Name = keyof Symbols;
const NAMES = Object.keys(SYMBOLS) as Name[];

/** What errno() and addressOf() take. */
const ALWAYS = ["errnoLocation", "addressOf", "copy"] as const;

/** For scopeOf(), which few addresses need. */
const INTERFACES = {
  if_nametoindex: { parameters: ["buffer"], result: "u32" },
} as const satisfies Deno.ForeignLibraryInterface;

const ERRNO_BYTES = 4n;

/** libc, as one thread sees it: those of its functions that are named `N`. */
export class Libc<N extends Name = Name> {
  readonly symbols: Pick<Symbols, N>;
  readonly #own: Pick<Symbols, (typeof ALWAYS)[number]>;
  readonly #library: { close(): void };
  /** Over an ArrayBuffer of its own, which stays where it is: a short array alone may be moved. */
  readonly #errno = new Int32Array(new ArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
  readonly #errnoAddress: bigint;
  readonly #errnoLocation: bigint;

  /**
   * Opens libc where there is one that the permissions admit, without ever asking for more of them. All
   * functions take 2 ms, so whoever is in a hurry names those that he needs. Throws Unavailable if there is
   * none.
   */
  constructor(names: readonly N[] = NAMES as N[]) {
    const wanted = new Set<Name>([...names, ...ALWAYS]);
    const functions = Object.fromEntries([...wanted].map((name) => [name, SYMBOLS[name]]));
    const library = openLibc(functions as typeof SYMBOLS);
    this.#library = library;
    this.symbols = this.#own = library.symbols;
    this.#errnoAddress = this.addressOf(this.#errno);
    this.#errnoLocation = this.#own.errnoLocation();
  }

  /** Of the call that failed last in this thread. */
  errno(): number {
    this.#own.copy(this.#errnoAddress, this.#errnoLocation, ERRNO_BYTES);
    return this.#errno[0]!;
  }

  /** Where the buffer begins. The caller keeps the buffer alive for as long as the address is used. */
  addressOf(buffer: BufferSource): bigint {
    return this.#own.addressOf(buffer, buffer, 0n);
  }

  /**
   * The number of the interface that an IPv6 address names after "%" (RFC 4007, section 11); 0 if it names
   * none, undefined if there is no such interface.
   */
  scopeOf(hostname: string): number | undefined {
    const [, zone] = hostname.split("%");
    if (zone === undefined) return 0;
    if (/^\d+$/.test(zone)) return Number(zone);
    const library = openLibc(INTERFACES);
    try {
      return library.symbols.if_nametoindex(new TextEncoder().encode(`${zone}\0`)) || undefined;
    } finally {
      library.close();
    }
  }

  close(): void {
    this.#library.close();
  }
}

/**
 * Functions of libc, from where there is one that the permissions admit, without ever asking for more of
 * them. Throws Unavailable if there is none.
 */
export function openLibc<S extends Deno.ForeignLibraryInterface>(
  symbols: S,
): Deno.DynamicLibrary<S> {
  const paths = requireLibc();
  for (const path of paths) {
    try {
      return Deno.dlopen(path, symbols);
    } catch {
      // Another distribution's path.
    }
  }
  throw new Unavailable(`Cannot find libc at ${paths.join(" or ")}`);
}

/** The paths at which the permissions admit libc. Throws Unavailable if there are none. */
export function requireLibc(): string[] {
  if (Deno.build.os !== "linux") throw new Unavailable(`Cannot call libc on ${Deno.build.os}`);
  const paths = LIBC_PATHS.filter((path) =>
    Deno.permissions.querySync({ name: "ffi", path }).state === "granted"
  );
  if (paths.length > 0) return paths;
  throw new Unavailable(
    Deno.build.standalone
      ? "Cannot call libc: this executable has no permission for it"
      : `Cannot call libc: run with --allow-ffi=${LIBC_PATHS[0]}`,
  );
}

/**
 * Memory that the kernel reads and writes: one WebAssembly.Memory, because its address never changes.
 * Whoever hands out addresses in it keeps the arena alive.
 */
export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly view: DataView<ArrayBuffer>;
  readonly #address: bigint;
  readonly #low: number;
  readonly #high: number;

  constructor(libc: Libc<never>, bytes: number) {
    const pages = Math.ceil(bytes / (64 * 1024));
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    this.view = new DataView(this.memory.buffer as ArrayBuffer); // it is not a shared one
    this.#address = libc.addressOf(this.view);
    this.#low = Number(BigInt.asIntN(32, this.#address));
    this.#high = Number(this.#address >> 32n);
  }

  addressOf(offset: number): bigint {
    return this.#address + BigInt(offset);
  }

  /** Writes the address of an offset to `at`: in two halves, because a BigInt is garbage. */
  setPointer(at: number, offset: number): void {
    const low = (this.#low + offset) | 0;
    const carry = low >>> 0 < offset ? 1 : 0;
    this.view.setInt32(at, low, true);
    this.view.setInt32(at + 4, this.#high + carry, true);
  }

  /** The twin of `setPointer`. */
  offsetAt(at: number): number {
    return (this.view.getInt32(at, true) - this.#low) >>> 0;
  }
}
