/** The version of both programs. deno.json has it, too, for whoever publishes; a test holds the two together. */
export const VERSION = "0.1.0";

/** Where there is more, for whoever has nothing but one of the programs. */
export const MORE =
  "The project's page is that of its package, @mallocd/mallocd: its README.md tells all else, of the " +
  "library, the protocol and how to run a daemon.";
