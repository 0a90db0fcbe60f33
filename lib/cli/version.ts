/** The version of both programs. deno.json has it, too, for whoever publishes; a test holds the two together. */
export const VERSION = "0.1.0";

/** Where there is more, for whoever has nothing but one of the programs. */
export const MORE =
  "The package @mallocd/mallocd has the library and the source; its README.md and docs/ tell all else.";
