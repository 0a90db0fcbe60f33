/**
 * Copying and zeroing without garbage. JavaScript copies between two buffers by `set(subarray(...))`,
 * and every subarray is an object for the garbage collector; a loop of DataView accesses makes none but
 * takes 15 to 20 microseconds for 60,000 bytes, four at a time. WebAssembly's `memory.copy` and
 * `memory.fill` do it with three integers and nothing else, in 10 ns for 64 bytes and 0.9 microseconds
 * for 60,000 (bench/copy.ts).
 *
 * The module is small enough to be written down byte by byte. In the text format, for 32 bits:
 *
 *     (module
 *       (import "" "heap" (memory 0 65536 shared))
 *       (import "" "io" (memory 0))
 *       (func (export "load") (param i32 i32 i32 i32)      ;; io address, heap offset, length
 *         (memory.copy 1 0 (local.get 0) (local.get 1) (local.get 3)))
 *       (func (export "store") (param i32 i32 i32 i32)     ;; heap offset, io address, length
 *         (memory.copy 0 1 (local.get 0) (local.get 2) (local.get 3)))
 *       (func (export "move") (param i32 i32 i32 i32 i32)  ;; heap offset to, heap offset from, length
 *         (memory.copy 0 0 (local.get 0) (local.get 2) (local.get 4)))
 *       (func (export "zero") (param i32 i32 i32)          ;; heap offset, length
 *         (memory.fill 0 (local.get 0) (i32.const 0) (local.get 2))))
 *
 * An offset is two parameters: its lower 32 bits (`offset | 0`) and the rest of them, which only a heap of
 * more than 4 GiB looks at. So neither is a double, which V8 may box, nor a BigInt, which is what an i64
 * would be. The memory of such a heap has addresses of 64 bits, (memory i64 0 262144 shared). There an offset is
 *
 *     (i64.or (i64.extend_i32_u (local.get n)) (i64.shl (i64.extend_i32_u (local.get n+1)) (i64.const 32)))
 *
 * and the lengths of move and zero are widened by i64.extend_i32_u; between two memories, a length has the
 * width of the smaller one.
 */

export interface Bulk {
  /** Copies `length` bytes at an offset of the heap to `at` of the I/O memory. */
  load(at: number, low: number, high: number, length: number): void;
  /** Copies `length` bytes at `at` of the I/O memory to an offset of the heap. */
  store(low: number, high: number, at: number, length: number): void;
  /** Copies `length` bytes within the heap; the two may overlap. */
  move(toLow: number, toHigh: number, fromLow: number, fromHigh: number, length: number): void;
  /** Zeroes `length` bytes at an offset of the heap. */
  zero(low: number, high: number, length: number): void;
}

/** The upper bits of an offset, of which `offset | 0` are the lower ones. */
export function high(offset: number): number {
  return (offset / 2 ** 32) | 0;
}

/** More bytes than this are no memory with addresses of 32 bits. */
const MAX_MEMORY32 = 2 ** 32;

/**
 * The module, for addresses of 32 and of 64 bits. To put it together here would take a millisecond of each
 * start: tests/heap/bulk_test.ts does.
 */
export const BULK = {
  narrow:
    "0061736d0100000001160360047f7f7f7f0060057f7f7f7f7f0060037f7f7f000214020004686561700203008080" +
    "040002696f02000003050400000102071e04046c6f616400000573746f72650001046d6f76650002047a65726f00" +
    "030a34040c00200020012003fc0a01000b0c00200020022003fc0a00010b0c00200020022004fc0a00000b0b0020" +
    "0041002002fc0b000b",
  wide:
    "0061736d0100000001160360047f7f7f7f0060057f7f7f7f7f0060037f7f7f000214020004686561700207008080" +
    "100002696f02000003050400000102071e04046c6f616400000573746f72650001046d6f76650002047a65726f00" +
    "030a5e04140020002001ad2002ad422086842003fc0a01000b14002000ad2001ad4220868420022003fc0a00010b" +
    "1d002000ad2001ad422086842002ad2003ad422086842004adfc0a00000b14002000ad2001ad4220868441002002" +
    "adfc0b000b",
} as const;

/** The four operations over one heap and one I/O memory; out of bounds they throw and change nothing. */
export function bulk(heap: WebAssembly.Memory, io: WebAssembly.Memory): Bulk {
  const { narrow, wide } = BULK;
  const code = Uint8Array.fromHex(heap.buffer.byteLength > MAX_MEMORY32 ? wide : narrow);
  const module = new WebAssembly.Module(code);
  const instance = new WebAssembly.Instance(module, { "": { heap, io } });
  return instance.exports as unknown as Bulk;
}
