/**
 * Where everything lies that a daemon must know beside the bytes of its clients: in one shared memory,
 * made once and as a whole. Who serves changes it; other threads read it without locks, as they do
 * Varnish's counters: every element is seen before a change or after it, never torn. It is a
 * WebAssembly.Memory, because only such a buffer begins where a kernel's page does, so that a file can be
 * mapped over it.
 *
 * An owner states the typed arrays that it needs as a *shape*, and is handed them, zeroed:
 *
 *     const shape = { free: int32(words), pages: uint8(count) };
 *     const { free, pages } = standAlone(shape);
 *
 * Shapes of many owners are laid out one behind the other, in the order in which they are written down:
 *
 *     | owner 1, array 1 | owner 1, array 2 |  | owner 2, array 1 |        |
 *     0                  64-byte aligned, so that no two share a cache line   64 KiB
 */

/** What an array is made of, and how many of them. */
export interface Piece<A> {
  readonly bytes: number;
  over(buffer: SharedArrayBuffer, byteOffset: number): A;
}

export type Shape = Readonly<Record<string, Piece<unknown>>>;

/** The arrays of a shape, by the same names. Plain data, which can be sent to another thread. */
export type Arrays<S> = {
  readonly [name in keyof S]: S[name] extends Piece<infer A> ? A : never;
};

const ALIGNMENT = 64;
/** Of memory: WebAssembly's, and the kernel's, by which it is remembered what was written. */
export const WASM_PAGE = 64 * 1024;
export const PAGE_SHIFT = 12;
export const PAGE = 1 << PAGE_SHIFT;

export const int32 = (length: number): Piece<Int32Array<SharedArrayBuffer>> => ({
  bytes: length * Int32Array.BYTES_PER_ELEMENT,
  over: (buffer, at) => new Int32Array(buffer, at, length),
});

export const uint16 = (length: number): Piece<Uint16Array<SharedArrayBuffer>> => ({
  bytes: length * Uint16Array.BYTES_PER_ELEMENT,
  over: (buffer, at) => new Uint16Array(buffer, at, length),
});

export const uint8 = (length: number): Piece<Uint8Array<SharedArrayBuffer>> => ({
  bytes: length,
  over: (buffer, at) => new Uint8Array(buffer, at, length),
});

export const float64 = (length: number): Piece<Float64Array<SharedArrayBuffer>> => ({
  bytes: length * Float64Array.BYTES_PER_ELEMENT,
  over: (buffer, at) => new Float64Array(buffer, at, length),
});

/** How large the memory is that these owners need, a multiple of 64 KiB. */
export function memoryBytes(shapes: Readonly<Record<string, Shape>>): number {
  return Math.ceil(Math.max(1, bytesOf(Object.values(shapes))) / WASM_PAGE) * WASM_PAGE;
}

/** Arrays of many owners, and the memory that all of them lie in, for code that takes no arrays. */
export type Allocated<S> =
  & { readonly [owner in keyof S]: Arrays<S[owner]> }
  & { readonly memory: WebAssembly.Memory };

/** The arrays of some owners, none of them called memory, all over one that is as large as they need. */
export function allocate<const S extends Readonly<Record<string, Shape>>>(shapes: S): Allocated<S> {
  const pages = memoryBytes(shapes) / WASM_PAGE;
  let memory: WebAssembly.Memory;
  try {
    memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch (cause) {
    throw new RangeError(
      `Cannot get ${pages * WASM_PAGE} bytes of memory for what is known about the heap: ` +
        "try a smaller --memory, or raise the limit on address space (ulimit -v)",
      { cause },
    );
  }
  return { ...take(memory.buffer as unknown as SharedArrayBuffer, shapes), memory };
}

/** What does not agree with the rest, and where that is: bytes from the beginning of its memory. */
export interface Fault {
  what: string;
  at: number;
}

/** A fault at an element of an array. */
export function faultAt(
  what: string,
  array: ArrayBufferView & { readonly BYTES_PER_ELEMENT: number },
  index: number,
): Fault {
  return { what, at: array.byteOffset + index * array.BYTES_PER_ELEMENT };
}

/** The arrays of one owner that nobody else looks at. */
export function standAlone<const S extends Shape>(shape: S): Arrays<S> {
  return take(new SharedArrayBuffer(bytesOf([shape])), { shape }).shape;
}

function take<const S extends Readonly<Record<string, Shape>>>(
  buffer: SharedArrayBuffer,
  shapes: S,
): { readonly [owner in keyof S]: Arrays<S[owner]> } {
  let at = 0;
  const owners = Object.entries(shapes).map(([owner, shape]) => {
    const arrays = Object.entries(shape).map(([name, piece]) => {
      const array = piece.over(buffer, at);
      at += aligned(piece.bytes);
      return [name, array];
    });
    return [owner, Object.fromEntries(arrays)];
  });
  if (at > buffer.byteLength) throw new Error(`Metadata of ${at} bytes do not fit their memory`);
  return Object.fromEntries(owners);
}

function bytesOf(shapes: readonly Shape[]): number {
  return shapes.flatMap((shape) => Object.values(shape))
    .reduce((sum, { bytes }) => sum + aligned(bytes), 0);
}

function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}
