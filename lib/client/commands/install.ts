/** mallocd-client install: a WebAssembly module becomes a procedure. */

import { UsageError } from "../../cli/flags.ts";
import { define, print } from "../command.ts";

/** Bytes that a daemon takes. */
const MAX_MODULE = 64 * 1024;

export const install = define({
  words: "FILE",
  help: "install a WebAssembly module as a procedure and print its handle",
  details: "The daemon must have been started with --procedures. " +
    "The same bytes have the same handle, until they are uninstalled or the daemon is restarted.",
  example: "mallocd-client install list.wasm",
  prepare: ([path]) => {
    const module = readModule(path!); // now, for the permission is given up before anything is sent
    return async (context) => {
      context.terminal.mustBeOpen();
      const handle = await context.remote.install(module);
      print(context, `${handle}\n`, { handle: `${handle}` });
      return true;
    };
  },
});

function readModule(path: string): Uint8Array {
  let module: Uint8Array;
  try {
    module = Deno.readFileSync(path);
  } catch (error) {
    const { message } = error as Error;
    throw new UsageError(`${path} cannot be read: ${message}`, "a file that was compiled to .wasm");
  }
  if (module.length <= MAX_MODULE) return module;
  throw new UsageError(
    `${path} is ${module.length} bytes long`,
    `a module of ${MAX_MODULE} bytes at most; without names, as wasm-strip or -s make it, it is shorter`,
  );
}
