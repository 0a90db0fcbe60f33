/** WebAssembly modules as tests want them: a few sections, instructions as bytes. */

export const [I32, I64, F32, F64] = [0x7f, 0x7e, 0x7d, 0x7c] as const;

/** Unsigned LEB128. */
export function leb(value: number): number[] {
  const bytes: number[] = [];
  for (; value >= 0x80; value = Math.floor(value / 128)) bytes.push(value % 128 | 0x80);
  return [...bytes, value];
}

/** Signed LEB128 of 32 bits. */
export function sleb(value: number): number[] {
  const bytes: number[] = [];
  for (; value < -64 || value > 63; value >>= 7) bytes.push(value & 0x7f | 0x80);
  return [...bytes, value & 0x7f];
}

export function name(text: string): number[] {
  const bytes = new TextEncoder().encode(text);
  return [...leb(bytes.length), ...bytes];
}

export function vector(items: readonly (readonly number[])[]): number[] {
  return [...leb(items.length), ...items.flat()];
}

export function section(id: number, content: readonly number[]): number[] {
  return [id, ...leb(content.length), ...content];
}

/** A function's body: groups of locals, then instructions, without the last `end`. */
export function body(code: readonly number[], locals: readonly (readonly number[])[] = []) {
  const content = [...vector(locals), ...code, 0x0b];
  return [...leb(content.length), ...content];
}

/** Text-format names of the instructions that tests use. */
export const get = (local: number) => [0x20, ...leb(local)];
export const set = (local: number) => [0x21, ...leb(local)];
export const call = (index: number) => [0x10, ...leb(index)];
export const i32 = (value: number) => [0x41, ...sleb(value)];
export const load = (offset = 0) => [0x28, 0, ...leb(offset)];
export const store = (offset = 0) => [0x36, 0, ...leb(offset)];
export const loop = (...code: number[]) => [0x03, 0x40, ...code, 0x0b];
export const iff = (...code: number[]) => [0x04, 0x40, ...code, 0x0b];
export const br = (depth: number) => [0x0c, depth];
export const brIf = (depth: number) => [0x0d, depth];
export const add = [0x6a];
export const sub = [0x6b];
export const drop = [0x1a];
export const fill = [0xfc, 11, 0];
export const copy = [0xfc, 10, 0, 0];
export const unreachable = [0x00];

/** The type of `run` is number 0, those of malloc, free and realloc are 1, 2 and 0; `begin`'s is 3. */
export const TYPES = [
  [0x60, 2, I32, I32, 1, I32],
  [0x60, 1, I32, 1, I32],
  [0x60, 1, I32, 0],
  [0x60, 0, 0],
];
export const MEMORY = [...name("env"), ...name("memory"), 2, 0, 0];
export const importFunction = (what: string, type: number) => [
  ...name("env"),
  ...name(what),
  0,
  type,
];
export const MALLOC = importFunction("malloc", 1);
export const FREE = importFunction("free", 2);
export const REALLOC = importFunction("realloc", 0);

export interface ModuleOptions {
  types?: readonly (readonly number[])[];
  imports?: readonly (readonly number[])[];
  /** Types of the functions; by default all are as `run`. */
  functions?: readonly number[];
  /** Sections as bytes, by number: tables, globals, start, elements, data. */
  sections?: Readonly<Record<number, readonly number[]>>;
  exports?: readonly (readonly number[])[];
  /** Sections before all others. */
  head?: readonly number[];
}

/** A module of these bodies, of which the last is `run`. */
export function moduleOf(
  bodies: readonly (readonly number[])[],
  options: ModuleOptions = {},
): Uint8Array<ArrayBuffer> {
  const { types = TYPES, imports = [MEMORY], functions = bodies.map(() => 0) } = options;
  const { sections = {}, head = [] } = options;
  const imported = imports.filter((entry) => {
    const module = entry[0]!;
    return entry[1 + module + 1 + entry[1 + module]!] === 0;
  }).length;
  const last = imported + bodies.length - 1;
  const { exports = [[...name("run"), 0, ...leb(last)]] } = options;
  const middle = [4, 5, 13, 6].flatMap((id) => id in sections ? section(id, sections[id]!) : []);
  const late = [8, 9, 12].flatMap((id) => id in sections ? section(id, sections[id]!) : []);
  return new Uint8Array([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...head,
    ...section(1, vector(types)),
    ...section(2, vector(imports)),
    ...section(3, vector(functions.map((type) => leb(type)))),
    ...middle,
    ...section(7, vector(exports)),
    ...late,
    ...section(10, vector(bodies)),
    ...(11 in sections ? section(11, sections[11]!) : []),
  ]);
}

/** A module whose `run` is these instructions. */
export function procedure(
  code: readonly number[],
  options: ModuleOptions & { locals?: readonly (readonly number[])[] } = {},
): Uint8Array<ArrayBuffer> {
  return moduleOf([body(code, options.locals)], options);
}
