// @std/assert, from npm, with the signatures of the functions that we use: the package ships no types.
import * as untyped from "deno-std/assert/mod.js";

type ErrorClass<E extends Error> = abstract new (...args: never[]) => E;

export const assert: (condition: unknown, message?: string) => asserts condition = untyped.assert;
export const assertEquals: <T>(actual: T, expected: T, message?: string) => void =
  untyped.assertEquals;
export const assertNotEquals: <T>(actual: T, expected: T, message?: string) => void =
  untyped.assertNotEquals;
export const assertMatch: (actual: string, expected: RegExp, message?: string) => void =
  untyped.assertMatch;
export const assertStringIncludes: (actual: string, expected: string, message?: string) => void =
  untyped.assertStringIncludes;
export const assertThrows: <E extends Error>(
  fn: () => unknown,
  errorClass: ErrorClass<E>,
  messageIncludes?: string,
) => E = untyped.assertThrows;
export const assertRejects: <E extends Error>(
  fn: () => PromiseLike<unknown>,
  errorClass: ErrorClass<E>,
  messageIncludes?: string,
) => Promise<E> = untyped.assertRejects;
