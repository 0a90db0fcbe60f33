/**
 * How many datagrams the kernel had no room for, of a socket that is Deno's: nobody can ask the socket
 * itself, but a table of all of them has it (proc(5), /proc/net/udp).
 *
 *     sl  local_address rem_address   st tx_queue:rx_queue ... inode ref pointer drops
 *     536: 0100007F:1F91 00000000:0000 07 00000000:00000000 ... 1957953 2 000000007567bf87 3
 */

import { parseAddress } from "../system/address.ts";
import { openLibc, Unavailable } from "../system/libc.ts";
import { READING, readText } from "../system/text.ts";

interface Address {
  readonly hostname: string;
  readonly port: number;
}

/** What tells that of the socket at an address; undefined each time where there is no such table, or no libc. */
export function openKernelDrops(address: Address): () => number | undefined {
  if (Deno.build.os !== "linux") return () => undefined;
  try {
    const { symbols } = openLibc(READING);
    const table = address.hostname.includes(":") ? "/proc/net/udp6" : "/proc/net/udp";
    return () => dropsIn(readText(symbols, table) ?? "", address);
  } catch (error) {
    if (error instanceof Unavailable) return () => undefined;
    throw error;
  }
}

/** The drops that a table tells of an address; undefined if that is not in it. */
export function dropsIn(table: string, { hostname, port }: Address): number | undefined {
  const words = parseAddress(hostname);
  if (words === undefined) return undefined;
  const address = hostname.includes(":") ? words : words.slice(3);
  const name = `${address.map(inMemory).join("")}:${hex(port, 4)}`;
  const row = table.split("\n").map((line) => line.trim().split(/\s+/))
    .find(([, local]) => local === name);
  return row && Number(row.at(-1));
}

/** A word of an address as the kernel prints it: its bytes as a little-endian number. */
function inMemory(word: number): string {
  return hex(word, 8).match(/../g)!.reverse().join("");
}

function hex(number: number, digits: number): string {
  return number.toString(16).toUpperCase().padStart(digits, "0");
}
