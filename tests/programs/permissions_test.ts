/** What the executables may do: `deno compile` writes it into them, as JSON behind the ELF image. */

import { assertEquals } from "@std/assert";
import { LIBC_PATHS } from "../../lib/system/libc.ts";
import { CLIENT, DIST, MALLOCD, ROOT } from "./programs.ts";

/** The image is far larger than what follows it. */
const TAIL_BYTES = 16 * 1024 ** 2;

const { permissions: sets } = JSON.parse(await Deno.readTextFile(new URL("deno.json", ROOT)));

/** All that an executable tells the runtime in it. */
async function metadataOf(program: string) {
  const file = await Deno.open(program);
  await file.seek(-TAIL_BYTES, Deno.SeekMode.End);
  const tail = await new Response(file.readable).bytes();
  const [json] = /\{"argv":[ -~]*/.exec(new TextDecoder("latin1").decode(tail)) ?? [];
  return JSON.parse(json!);
}

/** A list for each kind of permission that is allowed, and whether the program asks for more. */
async function permissionsOf(program: string): Promise<Record<string, unknown>> {
  const { permissions } = await metadataOf(program);
  // Only `deno run` imports from elsewhere: an executable has what it was compiled with.
  delete permissions.allow_import;
  return Object.fromEntries(Object.entries(permissions).filter(([, value]) => value !== null));
}

/** An empty list is the whole network, and every file: those that QUIC wants may be anywhere. */
const SOCKETS = { prompt: false, allow_net: [], allow_read: [], allow_env: [] };

Deno.test("mallocd-client may use the network, its variables and files, and does not ask for more", async () => {
  assertEquals(await permissionsOf(CLIENT), {
    ...SOCKETS,
    // For the history of the shell, as reading is for that and for QUIC; all other commands give this up.
    allow_write: [],
  });
});

Deno.test("mallocd may use the network, MALLOCD_*, NOTIFY_SOCKET and libc, may read, and does not ask for more", async () => {
  const { allow_ffi, ...others } = await permissionsOf(MALLOCD);
  assertEquals(others, { ...SOCKETS });
  const made = await Deno.readTextFile(`${DIST}.engine`);
  const isWithoutFfi = Deno.build.os !== "linux" || made.trim() === "datagram";
  assertEquals(allow_ffi, isWithoutFfi ? undefined : sets.daemon.ffi);
});

Deno.test("deno.json lets the daemon load libc from where the engine looks on each architecture, no more", () => {
  const paths = ["x86_64", "aarch64"].flatMap((arch) =>
    LIBC_PATHS.map((path) => path.replace(Deno.build.arch, arch))
  );
  assertEquals(new Set(sets.daemon.ffi), new Set(paths));
});

Deno.test("Executables keep no compiled code in files, and have no packages in them", async () => {
  for (const program of [MALLOCD, CLIENT]) {
    const { code_cache_key, node_modules } = await metadataOf(program);
    assertEquals([code_cache_key, node_modules], [null, null]);
  }
});
