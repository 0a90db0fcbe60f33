#!/usr/bin/env python3
"""A mallocd client in plain Python, written from docs/protocol.md alone.

    client.py malloc 64                     client.py cas POINTER EXPECTED DESIRED
    client.py write POINTER hello           client.py add POINTER DELTA
    client.py read POINTER 5                client.py hello
    client.py realloc POINTER 128           client.py vectors docs/vectors.json
    client.py free POINTER
"""
import argparse, json, re, secrets, socket, struct, sys
from contextlib import suppress

OPCODES = dict(malloc=0, free=1, read=2, write=3, realloc=4, cas=5, add=6, hello=7)
ERRNO = {12: "ENOMEM", 13: "EACCES", 14: "EFAULT", 22: "EINVAL", 38: "ENOSYS", 90: "EMSGSIZE"}
WAITS = [0.05, 0.1, 0.2, 0.4, 0.8]  # seconds until a request is sent again

class Client:
    def __init__(self, server):
        host, port = server.rsplit(":", 1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((host, int(port)))
        self.tag = secrets.randbits(32)

    def ask(self, request, wait):
        self.socket.settimeout(wait)
        self.socket.send(request)
        return self.socket.recv(65535)

    def classic(self, method, *fields, data=b""):
        request = pack(OPCODES[method], *fields) + data
        if method in ("free", "write"):
            self.socket.send(request)  # and nobody will ever know
            return b""
        body = self.ask(request, sum(WAITS))
        if body == bytes(8) if method == "malloc" else len(body) != fields[1]:
            raise OSError("refused")
        return body

    def tagged(self, method, *fields, data=b""):
        """Asks until a reply comes. The tag stays the same, so it is carried out at most once."""
        self.tag = (self.tag + 1) % 2**32
        request = pack(self.tag << 32 | 0x0100 | OPCODES[method], *fields) + data
        for wait in WAITS:
            with suppress(socket.timeout):
                reply = self.ask(request, wait)
                tag, status, flags, _, length = struct.unpack(">LHBBQ", reply[:16])
                if tag == self.tag and flags == 0x81:
                    if status != 0:
                        raise OSError(status, ERRNO.get(status, "unknown status"))
                    return reply[16 : 16 + length]
        raise TimeoutError("no reply: is mallocd running there?")

def pack(*fields):
    return b"".join((field % 2**64).to_bytes(8, "big") for field in fields)

def unpack(body):
    return struct.unpack(f">{len(body) // 8}Q", body)

def run_vectors(client, path, strict):
    """Tries all vectors that fit the daemon; the head of their file explains what they mean."""
    _, base, size, *_ = unpack(client.tagged("hello"))
    vectors = [v for v in json.load(open(path))["vectors"] if v.get("strict", strict) == strict]
    client.socket.settimeout(10)
    for vector in vectors:
        names = {"base": base, "size": size, "end": base + size}
        here = [[vector["request"], vector["reply"]]]
        for request, reply in vector.get("before", []) + here + vector.get("after", []):
            client.socket.send(bytes.fromhex(fill(request, names)))
            client.socket.send(bytes.fromhex("ffffffff00000107"))  # a hello: its reply comes last
            for expected in ([] if reply is None else [reply]) + ["ffffffff00008107 (..)*48"]:
                got = client.socket.recv(65535).hex()
                match = re.fullmatch(fill(expected, names), got)
                assert match, f"{vector['name']}: to {request} expected {reply}, got {got[:400]}"
                names.update((name, int(field, 16)) for name, field in match.groupdict().items())
    print(f"{len(vectors)} vectors passed")

def fill(text, names):
    """A datagram of a vector in hex; names that are not known yet, and "..", make it a pattern."""
    def field(match):
        name, offset = match.groups(default="0")
        return f"{names[name] + int(offset):016x}" if name in names else f"(?P<{name}>.{{16}})"
    text = re.sub(r"\(([^()]*)\)\*(\d+)", lambda match: match[1] * int(match[2]), text)
    return re.sub(r"\$(\w+)([+-]\d+)?", field, text).replace(" ", "")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--server", default="127.0.0.1:8081")
    parser.add_argument("--classic", action="store_true", help="the paper's protocol")
    parser.add_argument("--strict", action="store_true", help="of vectors: the daemon is strict")
    parser.add_argument("words", nargs="+")
    options = parser.parse_args()
    sys.excepthook = lambda kind, error, trace: print(error, file=sys.stderr)
    client, [method, *words] = Client(options.server), options.words
    if method == "vectors":
        sys.exit(run_vectors(client, words[0], options.strict))
    data = words.pop().encode() if method == "write" else b""
    fields = [int(word, 0) for word in words] + ([len(data)] if method == "write" else [])
    body = (client.classic if options.classic else client.tagged)(method, *fields, data=data)
    print(body.decode(errors="replace") if method == "read" else " ".join(map(str, unpack(body))))
