/** How large stored procedures may be, how many, and what they may use up. */

/** Bytes at the start of the heap that are reserved for procedures. */
export const RESERVED = 64 * 1024;
/** Bytes that one call may bring. */
export const MAX_ARGUMENTS = 4096;

export const MAX_MODULE = 64 * 1024;
/** A power of two. */
export const MAX_PROCEDURES = 64;

/** What a call may use up, unless the operator says otherwise: about so many instructions. */
export const DEFAULT_FUEL = 1_000_000;
export const MAX_FUEL = 2 ** 30;
