// @std/bytes, from npm, with the signatures of the functions that we use: the package ships no types.
import { concat as untypedConcat } from "deno-std/bytes/concat.js";
import { equals as untypedEquals } from "deno-std/bytes/equals.js";

export const concat: (arrays: readonly Uint8Array[]) => Uint8Array<ArrayBuffer> = untypedConcat;
export const equals: (a: Uint8Array, b: Uint8Array) => boolean = untypedEquals;
