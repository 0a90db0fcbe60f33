/**
 * The heap file (`--heap-file`): all that must outlive the process, mapped over the memories that hold it.
 * There is no saving and no loading: the pages are the kernel's, and are there when the process is not.
 * What a killed process had half done, the undo log in it takes back (lib/heap/undo.ts).
 *
 *     0         header, and at 512 the number of the process that has the file
 *     64 KiB    bytes that the undo log has saved
 *     heapAt    the heap
 *     stateAt   the state, as state.ts lays it out
 *
 * Each begins with a multiple of 64 KiB, WebAssembly's page. The header is one sector, which a disk writes
 * whole or not at all: fields of 64 bits in the order of FIELDS, in the machine's own byte order.
 *
 * A file is *made*, then *in use*, and *clean* when a daemon has ended and all of it is on the disk. One
 * that is in use and belongs to nobody was a killed daemon's: it is whole if the kernel that held its pages
 * still runs, and if it is that file and no copy that was made meanwhile. Otherwise it is refused.
 */

import { findFault } from "./audit.ts";
import { StartError } from "./start_error.ts";
import { lastingShapes, newState, type State, type StateOptions } from "./state.ts";
import { WORK_PER_TURN } from "./service.ts";
import { copyLive, type Halted } from "./snapshot.ts";
import { Buddy } from "../heap/buddy.ts";
import { Changes, type ChangesPlace, newChangesPlace } from "../heap/changes.ts";
import { GRAIN, Heap, newHeapMemory } from "../heap/heap.ts";
import { faultAt, memoryBytes, PAGE } from "../heap/metadata.ts";
import { findLogFault, HEAD_WORDS, newSavedMemory, Undo } from "../heap/undo.ts";
import { formatSize } from "../cli/sizes.ts";
import { Errno } from "../system/libc.ts";
import { File, FileError, readShort, rename, statusOf, unlink } from "../system/file.ts";

const FIELDS = [
  "magic",
  "byteOrder",
  "version",
  "condition",
  "created",
  /** Sizes and places, in bytes. */
  "heap",
  "heapAt",
  "saved",
  "savedAt",
  "state",
  "stateAt",
  /** Where an earlier state was, until its place is zeroed. */
  "former",
  "formerAt",
  /** What the state was laid out for: its options, and a digest of the names and sizes of all its arrays. */
  "replayCache",
  "quotas",
  "layout",
  /** While it is in use: which start of the kernel has its pages, and which file of which device it is. */
  "bootHigh",
  "bootLow",
  "inode",
  "device",
  /** While it is clean: a digest of the state. */
  "digest",
  /** A digest of all fields before it. */
  "checksum",
] as const;
type Header = Record<(typeof FIELDS)[number], bigint>;

const MAGIC = new DataView(new TextEncoder().encode("mallocd\0").buffer).getBigUint64(0);
const BYTE_ORDER = 0x0102030405060708n;
const VERSION = 1n;
const Condition = { made: 0n, inUse: 1n, clean: 2n } as const;

const SECTOR = 512;
const HOLDER_AT = SECTOR;
const UNIT = 64 * 1024;
const PAGE_WORDS = PAGE / 4;
if (FIELDS.length * 8 > SECTOR) throw new Error("The header of a heap file is more than a sector");

/** The most that one turn saves: what it may clear, and the write that came last. */
const SAVED = WORK_PER_TURN + UNIT + 2 * PAGE;

/** Why a file is no good, in a sentence; `hint` is the next step. Nothing was changed. */
export class HeapFileError extends StartError {
  override readonly name = "HeapFileError";
}

/** Where another thread finds the parts that it maps: plain data. */
export interface HeapPlace {
  readonly fd: number;
  readonly heap: number;
  readonly heapAt: number;
  readonly saved: number;
  readonly savedAt: number;
  readonly stateAt: number;
  /** Where is told what changes in the file. */
  readonly changes: ChangesPlace;
  /** Whether room that nobody uses goes back to the file system: it is not reserved. */
  readonly sparse: boolean;
}

export interface HeapFileOptions {
  /** Don't have the file system set space aside: who fills the disk then kills the daemon. */
  sparse?: boolean;
  /** Only look whether it can be had, and whether the disk has room for it: it does not grow. */
  check?: boolean;
}

/** The memory of a heap in a file, and the log by which what was half done in it is undone. */
export function mapHeap(
  place: HeapPlace,
  state: State,
): { memory: WebAssembly.Memory; undo: Undo } {
  return mapParts(place, state, "shared");
}

function mapParts(place: HeapPlace, state: State, how: "shared" | "private") {
  const file = new File(place.fd);
  const memory = newHeapMemory(place.heap);
  const saved = newSavedMemory(SAVED);
  file.map(memory.buffer, place.heapAt, roundUp(place.heap), how);
  file.map(saved.buffer, place.savedAt, place.saved, how);
  const { undo: { log }, service: { clock }, tokens } = state;
  const untold = [log.subarray(0, HEAD_WORDS), clock, ...Object.values(tokens)];
  const changes = new Changes({ ...place, ...place.changes, memory, heap: state.heap, untold });
  return { memory, undo: new Undo(state.undo, saved, memory, changes) };
}

/** What was at the path before. */
type Was = "heap" | "nothing in it" | "nothing";

export class HeapFile {
  readonly path: string;
  readonly state: State;
  readonly #file: File;
  readonly #sparse: boolean;
  readonly #changes: ChangesPlace;
  #header: Header;
  /** Whether there was nothing in it, or no file at all. */
  readonly #was: Was;
  /** Whether something that was stored could not be brought to the disk. */
  #isLost = false;
  /** Where the state of a snapshot is looked at: one memory, or each would hold its file until it is collected. */
  #copy: State | undefined;

  private constructor(
    { path, file, header, state, was, sparse }: {
      path: string;
      file: File;
      header: Header;
      state: State;
      was: Was;
      sparse: boolean;
    },
  ) {
    this.path = path;
    this.#file = file;
    this.#header = header;
    this.state = state;
    this.#was = was;
    this.#sparse = sparse;
    this.#changes = newChangesPlace(endOf(header));
  }

  /**
   * Opens the file at a path, or makes it, for a daemon with these options, and maps the state. Nobody
   * else can open it until this process ends. Throws HeapFileError, and the file is as it was.
   */
  static open(
    path: string,
    options: StateOptions,
    { sparse = false, check = false }: HeapFileOptions = {},
  ): HeapFile {
    bootId(); // that there is one: `begin` could not refuse any more
    const found = openFile(path, "write");
    const { file } = found;
    let { was } = found;
    try {
      let header = was === "heap" ? readHeader(path, file, options) : newHeader(options);
      if (header.condition === Condition.made) { // in which nobody has ever had anything
        if (was === "heap") was = "nothing in it";
        file.truncate(0);
        header = newHeader(options);
        writeHeader(file, header);
      }
      zeroFormer(file, header); // of a growing that was killed, before another one
      if (header.heap < BigInt(options.memory)) {
        requireClean(path, header, options);
        if (check) {
          setSize(path, file, endOf(grown(header, options)), sparse);
          file.truncate(endOf(header));
          options = { ...options, memory: Number(header.heap) };
        } else header = grow(path, file, header, options, sparse);
      }
      zeroFormer(file, header);
      setSize(path, file, endOf(header), sparse);
      const opened = new HeapFile({ path, file, header, state: newState(options), was, sparse });
      opened.#mapState("shared");
      const fault = opened.#hasChanged() ? CHANGED : opened.#findLogFault();
      if (fault !== undefined) throw damaged(path, fault);
      return opened;
    } catch (error) {
      discard(path, file, was);
      throw error;
    }
  }

  /**
   * Looks through the file at a path, whatever its daemon's options were, and changes nothing: how large its
   * heap is, and the first fault, in words. Throws HeapFileError if it could not even be opened.
   */
  static audit(path: string): { memory: number; fault: string | undefined } {
    const { file } = openFile(path, "read");
    try {
      const { heap, replayCache, quotas } = readFields(path, file);
      const memory = Number(heap);
      const quota = quotas === 0n ? undefined : memory;
      const options = { memory, replayCache: Number(replayCache), quota };
      const header = readHeader(path, file, options);
      const state = newState(options);
      const looked = new HeapFile({ path, file, header, state, was: "heap", sparse: true });
      if (header.condition === Condition.made) return { memory, fault: undefined };
      looked.#mapState("private");
      return { memory, fault: looked.findFault(options) ?? looked.#findChange() };
    } finally {
      file.close();
    }
  }

  #mapState(how: "shared" | "private"): void {
    const { stateAt, state: bytes } = this.#header;
    const { log } = this.state.undo;
    this.#file.map(log.buffer, Number(stateAt), Number(bytes), how);
    this.#file.readNothingAhead(log.buffer);
  }

  /** Whether the state is not what it was when the file was closed. */
  #hasChanged(): boolean {
    return this.isClean && digest(this.#file, this.#header, this.state) !== this.#header.digest;
  }

  /** The same, in words. */
  #findChange(): string | undefined {
    if (!this.#hasChanged()) return undefined;
    const { stateAt, state: bytes } = this.#header;
    return `${CHANGED}, somewhere from byte ${stateAt} to ${stateAt + bytes} of the file`;
  }

  /** What could not be undone of what was half done. */
  #findLogFault(): string | undefined {
    const { heap, saved: bytes, savedAt, stateAt } = this.#header;
    const saved = newSavedMemory(SAVED);
    this.#file.map(saved.buffer, Number(savedAt), Number(bytes), "private");
    const { log } = this.state.undo;
    const fault = this.isClean && log[0] !== 0
      ? faultAt("something is half done, and the file was closed", log, 0)
      : findLogFault(this.state.undo, saved, Number(heap));
    return fault && `${fault.what}, at byte ${Number(stateAt) + fault.at} of the file`;
  }

  get place(): HeapPlace {
    const { heap, heapAt, saved, savedAt, stateAt } = this.#header;
    const [bytes, at] = [Number(heap), Number(heapAt)];
    return {
      fd: this.#file.fd,
      heap: bytes,
      heapAt: at,
      saved: Number(saved),
      savedAt: Number(savedAt),
      stateAt: Number(stateAt),
      changes: this.#changes,
      sparse: this.#sparse,
    };
  }

  /** Whether a daemon has ended with it as it should. */
  get isClean(): boolean {
    return this.#header.condition === Condition.clean;
  }

  /** The first thing in it that does not agree with the rest, in words. Looks at a copy; changes nothing. */
  findFault(options: StateOptions): string | undefined {
    const logFault = this.#findLogFault();
    if (logFault !== undefined) return logFault;
    const { state: bytes, stateAt, heap, heapAt, former, formerAt } = this.#header;
    const copy = newState(options);
    this.#file.map(copy.undo.log.buffer, Number(stateAt), Number(bytes), "private");
    const { memory, undo } = mapParts(this.place, copy, "private");
    const [size, at] = [Number(heap), Number(heapAt)];
    if (former > 0n) { // it has grown, and this was the state before
      const from = Number(formerAt) - at;
      new Uint8Array(memory.buffer).fill(0, from, Math.min(from + Number(former), size));
    }
    const io = new WebAssembly.Memory({ initial: 1 });
    new Heap({ memory, size, io, state: copy, undo }); // undoes what was half done
    return findFault(options, copy, memory, stretches(this.#file, at, size), {
      heapAt: at,
      stateAt: Number(stateAt),
    });
  }

  /** Notes, on the disk, that it is in use, before anything is changed in it. Throws HeapFileError. */
  begin(): void {
    const { inode, device } = this.#file.status();
    const [bootHigh, bootLow] = bootId();
    const condition = Condition.inUse;
    this.#header = { ...this.#header, condition, bootHigh, bootLow, inode, device, digest: 0n };
    try {
      writeHeader(this.#file, this.#header);
      this.#file.write(new Uint8Array(BigUint64Array.of(BigInt(Deno.pid)).buffer), HOLDER_AT);
      this.#file.sync();
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      throw new HeapFileError(`${this.path} cannot be written: ${error.message}`, "another disk");
    }
  }

  /** Bytes of it that are not on the disk; undefined if the kernel does not tell. */
  unwritten(): number | undefined {
    return this.#file.unwritten();
  }

  /**
   * Resolves when all that was stored before is on the disk, to whether it is. Once it was not, it never is
   * again: the kernel tells once of what it could not write, and then takes it for written.
   */
  async sync(): Promise<boolean> {
    if (!await this.#file.syncMeanwhile()) this.#isLost = true;
    return !this.#isLost;
  }

  /** Where the copies go that `snapshot` makes. */
  get snapshotPath(): string {
    return `${this.path}.snapshot`;
  }

  /**
   * Makes a copy of it as it is at one instant, in place of the one before, while a daemon changes it. It
   * is a clean file, of an epoch of its own: who had pointers is told that they are of another life.
   * Throws FileError, and the copy before is as it was.
   */
  async snapshot(options: StateOptions, signal: AbortSignal): Promise<Halted> {
    const path = this.snapshotPath;
    requireReplaceable(path);
    const unfinished = `${path}.new`;
    if (statusOf(unfinished) !== undefined) unlink(unfinished); // of a daemon that was killed
    const to = File.open(unfinished, "create");
    try {
      const header = { ...this.#header };
      const stateAt = Number(header.stateAt);
      const { service } = this.state;
      to.truncate(endOf(header));
      const halted = await copyLive({
        from: this.#file,
        to,
        start: Number(header.heapAt),
        end: endOf(header),
        changes: this.#changes,
        mayShare: this.#sparse,
        signal,
      });
      const epoch = crypto.getRandomValues(new Int32Array(2));
      epoch[1]! |= 1;
      to.write(new Uint8Array(epoch.buffer), stateAt + service.epoch.byteOffset);
      const copy = this.#copy ??= newState(options);
      to.map(copy.undo.log.buffer, stateAt, Number(header.state), "private");
      header.condition = Condition.clean;
      header.digest = digest(to, header, copy);
      // The header comes after all else is on the disk: without it, it is no heap file.
      if (!await to.syncMeanwhile()) throw new FileError(Errno.EIO);
      writeHeader(to, header);
      if (!await to.syncMeanwhile()) throw new FileError(Errno.EIO);
      requireReplaceable(path);
      rename(unfinished, path);
      return halted;
    } catch (error) {
      if (statusOf(unfinished) !== undefined) unlink(unfinished); // it may have its name already
      throw error;
    } finally {
      to.close();
    }
  }

  /** To be called when nobody changes it any more, and after `sync`: notes that it is whole. Whether the disk has that. */
  end(): boolean {
    try {
      this.#file.sync();
      this.#header = { ...this.#header, condition: Condition.clean };
      this.#header.digest = digest(this.#file, this.#header, this.state);
      writeHeader(this.#file, this.#header);
      this.#file.sync();
      return true;
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      return false;
    } finally {
      this.close();
    }
  }

  /** Lets it go as it is: what is half done in it is undone by the next. */
  close(): void {
    this.#file.close();
  }

  /** Leaves what was there before, for a daemon that has served nobody. */
  abandon(): void {
    const isInUse = this.#header.condition === Condition.inUse;
    if (this.#was === "heap" && isInUse && this.state.undo.log[0] === 0) this.end();
    else discard(this.path, this.#file, this.#was);
  }
}

function discard(path: string, file: File, was: Was): void {
  if (was !== "heap") file.truncate(0);
  if (was === "nothing") unlink(path);
  file.close();
}

/** Throws FileError if something is at a path that is no snapshot, or that a daemon was started from. */
function requireReplaceable(path: string): void {
  const status = statusOf(path);
  if (status === undefined) return;
  if (status.kind !== undefined) throw new FileError(Errno.EEXIST);
  const file = File.open(path, "read");
  try {
    if (!file.lock()) throw new FileError(Errno.EBUSY);
  } finally {
    file.close();
  }
}

/** Opens a file and takes it for this process; to "read" takes one that is there. */
function openFile(path: string, how: "read" | "write"): { file: File; was: Was } {
  try {
    const before = statusOf(path);
    if (before === undefined && how === "read") throw new FileError(Errno.ENOENT);
    if (before?.kind !== undefined) {
      throw new HeapFileError(
        `${path} is ${before.kind}, not a file`,
        "another path",
      );
    }
    const file = File.open(path, before === undefined ? "create" : how);
    if (file.lock()) {
      if (before === undefined) return { file, was: "nothing" };
      return { file, was: before.bytes === 0 ? "nothing in it" : "heap" };
    }
    const pid = new Uint8Array(8);
    file.read(pid, HOLDER_AT);
    file.close();
    throw new HeapFileError(
      `${path} is in use by process ${new BigUint64Array(pid.buffer)[0]}`,
      "stop that daemon first, or take another file",
    );
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    throw new HeapFileError(
      `${path} cannot be opened: ${error.message}`,
      `a path that this user may read${how === "read" ? "" : " and write"}`,
    );
  }
}

function newHeader(options: StateOptions): Header {
  const saved = newSavedMemory(SAVED).buffer.byteLength;
  const heapAt = UNIT + saved;
  const shapes = lastingShapes(options);
  const numbers = {
    heap: options.memory,
    heapAt,
    saved,
    savedAt: UNIT,
    state: memoryBytes(shapes),
    stateAt: heapAt + roundUp(options.memory),
    former: 0,
    formerAt: 0,
    created: Date.now(),
    replayCache: options.replayCache,
    quotas: options.quota === undefined ? 0 : 1,
  };
  const header: Header = { ...BLANK, condition: Condition.made, layout: layoutOf(shapes) };
  for (const [name, number] of Object.entries(numbers)) {
    header[name as keyof typeof numbers] = BigInt(number);
  }
  return header;
}

const BLANK: Header = {
  ...Object.fromEntries(FIELDS.map((name) => [name, 0n])) as Header,
  magic: MAGIC,
  byteOrder: BYTE_ORDER,
  version: VERSION,
};

/** A digest of the names and the sizes of all arrays, in their order. */
function layoutOf(shapes: ReturnType<typeof lastingShapes>): bigint {
  const sizes = Object.entries(shapes).map(([owner, shape]) => [
    owner,
    Object.entries(shape).map(([name, { bytes }]) => [name, bytes]),
  ]);
  return fnv1a(new TextEncoder().encode(JSON.stringify(sizes)));
}

function writeHeader(file: File, header: Header): void {
  const words = BigUint64Array.from(FIELDS, (name) => header[name]);
  header.checksum = words[FIELDS.length - 1] = checksumOf(words);
  file.write(new Uint8Array(words.buffer), 0);
}

function checksumOf(words: BigUint64Array<ArrayBuffer>): bigint {
  return fnv1a(new Uint8Array(words.buffer, 0, 8 * (FIELDS.length - 1)));
}

/** FNV-1a, 64 bits (Fowler, Noll and Vo). */
function fnv1a(bytes: Uint8Array): bigint {
  let hash = 0xcbf29ce484222325n;
  for (const byte of bytes) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return hash;
}

/** Reads the header of a file that holds something, and refuses what is no header of ours. */
function readFields(path: string, file: File): Header {
  const words = new BigUint64Array(FIELDS.length);
  file.read(new Uint8Array(words.buffer), 0);
  const header = Object.fromEntries(FIELDS.map((name, i) => [name, words[i]!])) as Header;
  if (header.magic !== MAGIC) {
    throw new HeapFileError(
      `${path} is no heap file of mallocd`,
      "another path",
    );
  }
  if (header.byteOrder !== BYTE_ORDER) {
    throw new HeapFileError(`${path} was made on a machine with another byte order`, ANOTHER);
  }
  if (header.version !== VERSION) {
    throw new HeapFileError(
      `${path} has version ${header.version} of the format, and this mallocd knows ${VERSION}`,
      "the mallocd that has made it",
    );
  }
  if (header.checksum !== checksumOf(words)) throw damaged(path, "its header is torn");
  return header;
}

/** The same, if it suits these options. */
function readHeader(path: string, file: File, options: StateOptions): Header {
  const header = readFields(path, file);
  checkOptions(path, header, options);
  if (header.condition === Condition.made) return header;
  if (file.status().bytes < endOf(header)) {
    throw damaged(path, `it was cut off at ${file.status().bytes} of ${endOf(header)} bytes`);
  }
  if (header.condition === Condition.inUse) checkOrigin(path, file, header);
  return header;
}

const CHANGED = "what it knows about the heap has changed since it was closed";
const ANOTHER = "another --heap-file, or remove this one and what it holds";

function damaged(path: string, what: string): HeapFileError {
  return new HeapFileError(
    `${path} is damaged: ${what}`,
    "a copy that was made of it, or remove it",
  );
}

function checkOptions(path: string, header: Header, options: StateOptions): void {
  const { heap, replayCache, quotas, layout } = header;
  if (BigInt(options.memory) < heap) {
    throw new HeapFileError(
      `${path} holds a heap of ${formatSize(Number(heap))}, more than --memory has`,
      `--memory ${formatSize(Number(heap))}, or more`,
    );
  }
  if (BigInt(options.replayCache) !== replayCache) {
    throw new HeapFileError(
      `${path} remembers ${replayCache} replies, not ${options.replayCache}`,
      `--replay-cache ${replayCache}`,
    );
  }
  const hasQuotas = quotas !== 0n;
  if ((options.quota !== undefined) !== hasQuotas) {
    throw new HeapFileError(
      hasQuotas ? `${path} knows whose each block is` : `${path} does not know whose each block is`,
      hasQuotas
        ? "--quota SIZE; --quota 16GiB limits nobody"
        : "no --quota, or another --heap-file",
    );
  }
  if (layoutOf(lastingShapes({ ...options, memory: Number(heap) })) !== layout) {
    throw new HeapFileError(
      `${path} was made by another mallocd, which kept other things`,
      ANOTHER,
    );
  }
}

/** Of a file that is in use and that nobody has: whether all that was stored in it is there. */
function checkOrigin(path: string, file: File, header: Header): void {
  const { inode, device } = file.status();
  if (header.inode !== inode || header.device !== device) {
    throw damaged(path, "it is a copy that was made while a daemon had it in use");
  }
  const [high, low] = bootId();
  if (header.bootHigh !== high || header.bootLow !== low) {
    throw damaged(path, "the machine went down while a daemon had it in use");
  }
}

const BOOT_ID = "/proc/sys/kernel/random/boot_id";

/**
 * Where there may be bytes other than zero, counted from `from`. All of it is asked before any is read:
 * what the kernel then reads ahead, of room that is only reserved, counts as data, too.
 */
function stretches(file: File, from: number, size: number): [from: number, end: number][] {
  const found: [number, number][] = [];
  for (let next = file.nextData(from); next !== undefined && next[0] < from + size;) {
    found.push([Math.max(next[0] - from, 0), Math.min(next[1] - from, size)]);
    next = file.nextData(next[1]);
  }
  return found;
}

/** Another one after each start of the machine. */
function bootId(): [high: bigint, low: bigint] {
  try {
    const hex = readShort(BOOT_ID).replaceAll("-", "").trim();
    return [BigInt(`0x${hex.slice(0, 16)}`), BigInt(`0x${hex.slice(16)}`)];
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    throw new HeapFileError(
      `a heap file cannot be had without ${BOOT_ID}: ${error.message}`,
      "a /proc that is whole (ProcSubset=all in a unit of systemd)",
    );
  }
}

function endOf({ heap, heapAt, state, stateAt }: Header): number {
  return Math.max(Number(heapAt) + roundUp(Number(heap)), Number(stateAt + state));
}

/** A full disk is SIGBUS to who stores into a page that it has no room for: it is found out in time. */
function setSize(path: string, file: File, bytes: number, sparse: boolean): void {
  const before = file.status().bytes;
  try {
    if (sparse) file.truncate(bytes);
    else file.reserve(bytes);
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    file.truncate(before);
    throw new HeapFileError(
      `${formatSize(bytes)} cannot be reserved for ${path}: ${error.message}`,
      "another file system, a smaller --memory, or --sparse, which reserves nothing",
    );
  }
}

/**
 * A digest of the state. Pages of zeros count for nothing, and holes are not even looked at: most of the
 * state of a large heap was never touched.
 */
function digest(file: File, header: Header, { undo }: State): bigint {
  const [from, size] = [Number(header.stateAt), Number(header.state)];
  const words = new Int32Array(undo.log.buffer, 0, size / 4);
  let [high, low] = [0, 0];
  for (const [start, stop] of stretches(file, from, size)) {
    const [first, end] = [Math.floor(start / PAGE), Math.ceil(stop / PAGE)];
    for (let page = first; page < end; page++) {
      let [a, b] = [0, 0];
      for (let i = page * PAGE_WORDS; i < (page + 1) * PAGE_WORDS; i++) {
        a = Math.imul(a ^ words[i]!, 0x9e3779b1);
        b = Math.imul(b, 0x85ebca6b) + words[i]! | 0;
      }
      if ((a | b) === 0) continue;
      high = high + Math.imul(a ^ a >>> 15 ^ page, 0xc2b2ae35) | 0;
      low = low + Math.imul(b ^ b >>> 15 ^ page, 0x27d4eb2f) | 0;
    }
  }
  return BigInt(high >>> 0) << 32n | BigInt(low >>> 0);
}

/** Only what a daemon has ended with as it should can grow. */
function requireClean(path: string, header: Header, options: StateOptions): void {
  const from = formatSize(Number(header.heap));
  const to = formatSize(options.memory);
  if (header.condition !== Condition.clean) {
    throw new HeapFileError(
      `${path} cannot grow to ${to} because its daemon was killed`,
      `--memory ${from} once, to recover it, and end that daemon by SIGTERM`,
    );
  }
}

/**
 * Makes the heap of a file larger: lays out a larger state behind the old one, and the header then says
 * that this one holds. Until then, nothing has changed.
 */
function grow(
  path: string,
  file: File,
  header: Header,
  options: StateOptions,
  sparse: boolean,
): Header {
  const from = formatSize(Number(header.heap));
  const to = formatSize(options.memory);
  const former = newState({ ...options, memory: Number(header.heap) });
  file.map(former.undo.log.buffer, Number(header.stateAt), Number(header.state), "private");
  file.readNothingAhead(former.undo.log.buffer);
  if (digest(file, header, former) !== header.digest) {
    throw damaged(path, CHANGED);
  }
  const larger = grown(header, options);
  file.truncate(endOf(header)); // an earlier try may have left something
  setSize(path, file, endOf(larger), sparse);
  const state = newState(options);
  file.map(state.undo.log.buffer, Number(larger.stateAt), Number(larger.state), "shared");
  file.readNothingAhead(state.undo.log.buffer);
  const old = new Buddy(Number(header.heap) / GRAIN, former.buddy);
  const buddy = new Buddy(options.memory / GRAIN, state.buddy);
  for (const [grain, order] of old.allLive()) {
    if (!buddy.claim(grain, order)) {
      throw new HeapFileError(
        `${path} cannot grow from ${from} to ${to}: a block of ${formatSize(GRAIN * 2 ** order)} ` +
          "would not begin with a multiple of its size",
        "a size that is a power of two, if the old one is",
      );
    }
  }
  for (const owner of ["service", "tokens", "heap", "cache", "quota"] as const) {
    for (const [name, array] of Object.entries(former[owner])) {
      (state[owner] as Record<string, typeof array>)[name]!.set(array); // what is new comes after it
    }
  }
  larger.digest = digest(file, larger, state);
  file.sync();
  writeHeader(file, larger);
  file.sync();
  return larger;
}

/** The header of a file with a larger heap: its state is behind the one before. */
function grown(header: Header, options: StateOptions): Header {
  const { heap, state, stateAt, layout } = newHeader(options);
  const behind = header.stateAt + header.state;
  return {
    ...header,
    heap,
    state,
    stateAt: stateAt > behind ? stateAt : behind,
    layout,
    former: header.state,
    formerAt: header.stateAt,
  };
}

/** Where the state was, the heap now goes on: what is left of it is zeroed. */
function zeroFormer(file: File, header: Header): void {
  if (header.former === 0n) return;
  file.punch(Number(header.formerAt), Number(header.former));
  header.former = header.formerAt = 0n;
  file.sync();
  writeHeader(file, header);
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / UNIT) * UNIT;
}
