/** The version of both programs. deno.json has it, too, for whoever publishes; a test holds the two together. */
export const VERSION = "0.1.0";
