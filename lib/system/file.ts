/**
 * Files as Linux has them, by descriptor, for what Deno's own cannot do: map them over memory, lock and
 * reserve them, and punch holes. A descriptor is of the whole process: any thread may make a File of it.
 */

import { Errno, openLibc } from "./libc.ts";

const SYMBOLS = {
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
  rename: { parameters: ["buffer", "buffer"], result: "i32" },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "buffer"], result: "i32" },
  flock: { parameters: ["i32", "i32"], result: "i32" },
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  pread: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  fsync: { parameters: ["i32"], result: "i32" },
  syscall: {
    parameters: ["i64", "i32", "buffer", "buffer", "u32"], // of cachestat(2), which libc has no name for
    result: "i64",
  },
  fsyncMeanwhile: { name: "fsync", parameters: ["i32"], result: "i32", nonblocking: true },
  preadMeanwhile: {
    name: "pread",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "isize",
    nonblocking: true,
  },
  pwriteMeanwhile: {
    name: "pwrite",
    parameters: ["i32", "buffer", "usize", "i64"],
    result: "isize",
    nonblocking: true,
  },
  copyMeanwhile: {
    name: "copy_file_range",
    parameters: ["i32", "buffer", "i32", "buffer", "usize", "u32"],
    result: "isize",
    nonblocking: true,
  },
  mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "usize" },
  madvise: { parameters: ["usize", "usize", "i32"], result: "i32" },
  errnoLocation: { name: "__errno_location", parameters: [], result: "usize" },
  addressOf: { name: "memmove", parameters: ["buffer", "buffer", "usize"], result: "usize" },
  readAddress: { name: "memmove", parameters: ["buffer", "usize", "usize"], result: "void" },
} as const satisfies Deno.ForeignLibraryInterface;

/** <asm-generic/fcntl.h>, <sys/file.h>, <linux/falloc.h>, <asm-generic/mman-common.h>, <linux/stat.h> */
const O_RDONLY = 0;
const O_RDWR = 2;
const O_CREAT = 0o100;
const O_EXCL = 0o200;
/** The two architectures differ in this one. */
const O_DIRECTORY = Deno.build.arch === "aarch64" ? 0o40000 : 0o200000;
const O_CLOEXEC = 0o2000000;
const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const PROT_READ_WRITE = 3;
const MAP_SHARED = 0x01;
const MAP_PRIVATE = 0x02;
const MAP_FIXED = 0x10;
const MADV_RANDOM = 1;
const MAP_FAILED = 2n ** 64n - 1n;
const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const AT_EMPTY_PATH = 0x1000;
const STATX_BASIC_STATS = 0x7ff;
/** struct statx: what we read of it. */
const STATX = { size: 256, mode: 28, inode: 32, bytes: 40, major: 136, minor: 140 };
const S_IFMT = 0o170000;
const KINDS: Readonly<Record<number, string>> = {
  0o010000: "a pipe",
  0o020000: "a device",
  0o040000: "a directory",
  0o060000: "a device",
  0o120000: "a symbolic link",
  0o140000: "a socket",
};

/** <asm-generic/unistd.h>, the same number on every machine; <linux/mman.h> */
const SYS_CACHESTAT = 451n;
const CACHESTAT = { size: 40, dirty: 8, writeback: 16 };

const PAGE = 4096n;

/** What the kernel answers, in the words of strerror(3). */
const TEXTS: Readonly<Record<number, string>> = {
  1: "Operation not permitted",
  2: "No such file or directory",
  5: "Input/output error",
  12: "Cannot allocate memory",
  13: "Permission denied",
  16: "Device or resource busy",
  17: "File exists",
  20: "Not a directory",
  22: "Invalid argument",
  27: "File too large",
  28: "No space left on device",
  30: "Read-only file system",
  36: "File name too long",
  40: "Too many levels of symbolic links",
  95: "Operation not supported",
  122: "Disk quota exceeded",
};

/** What the kernel would not do. */
export class FileError extends Error {
  override readonly name = "FileError";
  constructor(readonly errno: number) {
    super(TEXTS[errno] ?? `os error ${errno}`);
  }
}

export interface Status {
  /** In words, if it is no regular file: "a directory". */
  kind: string | undefined;
  bytes: number;
  /** Which file of which device: another file's are others. */
  inode: bigint;
  device: bigint;
}

/** libc, as one thread sees it, made when it is first asked for. */
let opened: Deno.DynamicLibrary<typeof SYMBOLS> | undefined;
function libc() {
  return (opened ??= openLibc(SYMBOLS)).symbols;
}

/** Throws what the call that failed last has left in errno. */
function fail(): never {
  const errno = new Int32Array(1);
  libc().readAddress(errno, libc().errnoLocation(), 4n);
  throw new FileError(errno[0]!);
}

function checked(result: number | bigint): number {
  return result < 0 ? fail() : Number(result);
}

const zeroEnded = (path: string) => new TextEncoder().encode(`${path}\0`);

/** What is at a path, without following a symbolic link; undefined if nothing is. Throws FileError. */
export function statusOf(path: string): Status | undefined {
  try {
    return status(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW);
  } catch (error) {
    if (error instanceof FileError && error.errno === Errno.ENOENT) return undefined;
    throw error;
  }
}

function status(fd: number, path: string, flags: number): Status {
  const view = new DataView(new ArrayBuffer(STATX.size));
  checked(libc().statx(fd, zeroEnded(path), flags, STATX_BASIC_STATS, view));
  const mode = view.getUint16(STATX.mode, true);
  return {
    kind: KINDS[mode & S_IFMT],
    bytes: Number(view.getBigUint64(STATX.bytes, true)),
    inode: view.getBigUint64(STATX.inode, true),
    device: BigInt(view.getUint32(STATX.major, true)) << 32n |
      BigInt(view.getUint32(STATX.minor, true)),
  };
}

export function unlink(path: string): void {
  checked(libc().unlink(zeroEnded(path)));
}

/** Puts what is at `from` in place of what is at `to`, in one step, and brings that to the disk. */
export function rename(from: string, to: string): void {
  checked(libc().rename(zeroEnded(from), zeroEnded(to)));
  const end = to.lastIndexOf("/");
  const folder = File.open(end < 0 ? "." : to.slice(0, end + 1), "folder");
  try {
    folder.sync();
  } finally {
    folder.close();
  }
}

/** All of a short file, or the first 4 KiB; the kernel's own, which Deno would not read, included. */
export function readShort(path: string): string {
  const file = File.open(path, "read");
  try {
    const bytes = new Uint8Array(4096);
    return new TextDecoder().decode(bytes.subarray(0, file.read(bytes, 0)));
  } finally {
    file.close();
  }
}

/** Every method throws FileError if the kernel does not do it. */
export class File {
  constructor(readonly fd: number) {}

  /** Opens a file; to "create" fails if there is one, and makes one that is its owner's alone. */
  static open(path: string, how: "read" | "write" | "create" | "folder"): File {
    const flags = {
      read: O_RDONLY,
      write: O_RDWR,
      create: O_RDWR | O_CREAT | O_EXCL,
      folder: O_RDONLY | O_DIRECTORY,
    }[how];
    return new File(checked(libc().open(zeroEnded(path), flags | O_CLOEXEC, 0o600)));
  }

  status(): Status {
    return status(this.fd, "", AT_EMPTY_PATH);
  }

  /** Takes the lock that one process at a time can have, until it ends. Whether it could be had. */
  lock(): boolean {
    if (libc().flock(this.fd, LOCK_EX | LOCK_NB) === 0) return true;
    try {
      return fail();
    } catch (error) {
      if (error instanceof FileError && error.errno === Errno.EAGAIN) return false;
      throw error;
    }
  }

  /** Returns how many bytes there were. */
  read(bytes: Uint8Array<ArrayBuffer>, at: number): number {
    return checked(libc().pread(this.fd, bytes, BigInt(bytes.length), BigInt(at)));
  }

  write(bytes: Uint8Array<ArrayBuffer>, at: number): void {
    const written = checked(libc().pwrite(this.fd, bytes, BigInt(bytes.length), BigInt(at)));
    if (written === bytes.length) return;
    if (written === 0) throw new FileError(Errno.ENOSPC);
    this.write(bytes.subarray(written), at + written); // which says why, if there was more to it than a signal
  }

  // While a call is under way, only what is used after it keeps a buffer from being collected.

  /** Like `read`, while this thread does something else; -1 if it cannot be read. */
  async readMeanwhile(bytes: Uint8Array<ArrayBuffer>, at: number): Promise<number> {
    const read = await libc().preadMeanwhile(this.fd, bytes, BigInt(bytes.length), BigInt(at));
    return Math.min(Number(read), bytes.length);
  }

  /** Like `write`. */
  async writeMeanwhile(bytes: Uint8Array<ArrayBuffer>, at: number): Promise<void> {
    const length = BigInt(bytes.length);
    const result = await libc().pwriteMeanwhile(this.fd, bytes, length, BigInt(at));
    const written = Math.max(0, Number(result));
    // What is left says why it cannot be written: the errno of that call was another thread's.
    if (written < bytes.length) this.write(bytes.subarray(written), at + written);
  }

  /**
   * Copies bytes to the same place in another file, which then shares the room of this one where the file
   * system can do that; returns how many, 0 if it cannot be done so.
   */
  async cloneMeanwhile(to: File, at: number, bytes: number): Promise<number> {
    const offset = () => new BigInt64Array(new ArrayBuffer(8)).fill(BigInt(at));
    const [from, place] = [offset(), offset()];
    await libc().copyMeanwhile(this.fd, from, to.fd, place, BigInt(bytes), 0);
    return Math.min(Number(from[0]), Number(place[0])) - at; // the kernel has advanced both
  }

  truncate(bytes: number): void {
    checked(libc().ftruncate(this.fd, BigInt(bytes)));
  }

  /** Has the file system set aside all of the first `bytes`, so that no store into them can fail. */
  reserve(bytes: number): void {
    for (;;) {
      try {
        checked(libc().fallocate(this.fd, 0, 0n, BigInt(bytes)));
        return;
      } catch (error) {
        // It takes long where pages are filled with zeros; a signal ends it, whoever that is for.
        if (!(error instanceof FileError && error.errno === Errno.EINTR)) throw error;
      }
    }
  }

  /** Gives bytes back to the file system; they are zero from then on. */
  punch(at: number, bytes: number): void {
    const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    checked(libc().fallocate(this.fd, mode, BigInt(at), BigInt(bytes)));
  }

  /** The next stretch from `from` on that may hold bytes other than zero; undefined if there is none. */
  nextData(from: number): [from: number, end: number] | undefined {
    try {
      const start = checked(libc().lseek(this.fd, BigInt(from), SEEK_DATA));
      return [start, checked(libc().lseek(this.fd, BigInt(start), SEEK_HOLE))];
    } catch (error) {
      if (error instanceof FileError && error.errno === Errno.ENXIO) return undefined;
      throw error;
    }
  }

  /**
   * Bytes that are not on the disk yet, in whole pages; undefined if the kernel does not tell: it is older
   * than Linux 6.5, or the process may not ask.
   */
  unwritten(): number | undefined {
    const found = new DataView(new ArrayBuffer(CACHESTAT.size));
    const all = new BigUint64Array(2); // from 0 on, to the end
    if (libc().syscall(SYS_CACHESTAT, this.fd, all, found, 0) < 0) return undefined;
    const pages = (at: number) => found.getBigUint64(at, true);
    return Number((pages(CACHESTAT.dirty) + pages(CACHESTAT.writeback)) * PAGE);
  }

  /** Resolves when all that was stored before is on the disk, to whether it is. No thread of ours waits. */
  async syncMeanwhile(): Promise<boolean> {
    return await libc().fsyncMeanwhile(this.fd) === 0;
  }

  sync(): void {
    checked(libc().fsync(this.fd));
  }

  /**
   * Makes `bytes` of the file, from `at`, those of the buffer: what either holds, the other does. If it is
   * `private`, what is stored into the buffer stays there. The buffer is a WebAssembly.Memory's, of which
   * alone it is known that it begins with a page.
   */
  map(buffer: ArrayBufferLike, at: number, bytes: number, how: "shared" | "private"): void {
    const whole = new Uint8Array(buffer) as Uint8Array<ArrayBuffer>;
    const address = BigInt(libc().addressOf(whole, whole, 0n));
    if (address % PAGE !== 0n || bytes > whole.length) throw new FileError(Errno.EINVAL);
    const flags = MAP_FIXED | (how === "shared" ? MAP_SHARED : MAP_PRIVATE);
    const mapped = libc().mmap(
      address,
      BigInt(bytes),
      PROT_READ_WRITE,
      flags,
      this.fd,
      BigInt(at),
    );
    if (BigInt(mapped) === MAP_FAILED) fail();
  }

  /**
   * Has the kernel read no more of the file than the pages of the buffer that are touched, of those that are
   * mapped over it: what it reads ahead of room that is only reserved counts as data, for `nextData`.
   */
  readNothingAhead(buffer: ArrayBufferLike): void {
    const whole = new Uint8Array(buffer) as Uint8Array<ArrayBuffer>;
    const address = BigInt(libc().addressOf(whole, whole, 0n));
    checked(libc().madvise(address, BigInt(whole.length), MADV_RANDOM));
  }

  /** Gives up the lock, too, which what is mapped would go on holding. */
  close(): void {
    libc().flock(this.fd, LOCK_UN);
    checked(libc().close(this.fd));
  }
}
