/** The version has one home, deno.json. */
import config from "../deno.json" with { type: "json" };

export const VERSION = config.version;
