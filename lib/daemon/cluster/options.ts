/** The flags of a daemon in a cluster: what they mean together, and the files that they name. */

import type { Log } from "../log.ts";
import { UsageError, type Values } from "../../cli/flags.ts";
import type { DAEMON_FLAGS } from "../flags.ts";
import type { ClusterOptions } from "./range.ts";

/** What an operator decides. */
export interface MemberOptions extends ClusterOptions {
  /** Which range to have; the first one that has no owner, or a new one, if it is undefined. */
  readonly range: number | undefined;
  /** Follow the owner of the range, and take its place when its lease is over. */
  readonly standby: boolean;
  /** Look whether that would do, and do nothing. */
  readonly check: boolean;
  /** Bytes of the log after which a standby makes a snapshot. */
  readonly trim: number;
  /** Tells the operator. */
  readonly say: Log;
}

/** Undefined without --cluster. Throws UsageError, also if a file cannot be read. */
export function memberOptions(
  values: Values<typeof DAEMON_FLAGS>,
  say: MemberOptions["say"],
): MemberOptions | undefined {
  const { cluster: nodes, engine, copies, lease, trim, standby } = values;
  if (nodes === undefined) return undefined;
  if (engine !== "auto" && engine !== "datagram") {
    throw new UsageError(
      `--engine ${engine} has no --cluster: it sends each reply before the cluster could have the request`,
      "--engine datagram, or leave --engine out",
    );
  }
  const range = values.range === "auto" ? undefined : values.range;
  if (standby && range === undefined) {
    throw new UsageError("--standby follows one range", "--range N, with that range's number");
  }
  const ca = values["cluster-ca"];
  const userFile = values["cluster-user"];
  const access = {
    ca: ca === undefined ? undefined : read("cluster-ca", ca),
    user: userFile === undefined ? undefined : parseUser(userFile),
  };
  return { nodes, access, copies, lease, range, standby, trim, check: values.check, say };
}

/** The first line is `user password`, or a password alone, which is that of the user named default. */
function parseUser(path: string): { name: string; password: string } {
  const words = read("cluster-user", path).split("\n", 1)[0]!.trim().split(/\s+/);
  const [name, password] = words.length === 1 ? ["default", ...words] : words;
  if (name && password && words.length <= 2) return { name, password };
  throw new UsageError(
    `--cluster-user ${path} has no user and password in its first line`,
    "a line of both with a blank between them, as in: mallocd s3cret",
  );
}

function read(flag: string, path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new UsageError(
      `--${flag} ${path} cannot be read: ${(error as Error).message}`,
      "a file that mallocd may read",
    );
  }
}
