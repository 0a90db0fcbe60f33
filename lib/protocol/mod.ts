/**
 * The protocol by itself, for whoever writes a client or a server of their own: the format of requests and
 * replies, in both directions, and the errors that a reply can carry. docs/protocol.md specifies it.
 */

export { describeErrno, ERRNO, type ErrnoName } from "./errno.ts";
export {
  Decoded,
  decodeReply,
  decodeRequest,
  DEFAULT_PORT,
  encodeReplyHead,
  encodeRequest,
  FIELD,
  Flag,
  type Layout,
  MAX_DATAGRAM,
  type MethodName,
  METHODS,
  type Part,
  PROTOCOL_VERSION,
  Reply,
  REPLY_HEAD,
  Request,
  SESSION,
  type Session,
} from "./wire.ts";
