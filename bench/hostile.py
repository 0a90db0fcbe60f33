"""What bench/hostile.ts runs on a network of its own: `hostile.py READER ROUNDS SECONDS ADDS COMMAND...`.

COMMAND starts the daemon. An honest tagged client, which has proven its address, adds one to a number
again and again; a classic client, whose network is allowed, reads. Both do it undisturbed, and beside
`hostile.py attack PORT POINTER READER`, whose READER behind a slow link is proven or unproven. Prints what they reached, as JSON.
"""

import itertools
import json
import random
import re
import socket
import struct
import subprocess
import sys
import time

DAEMON = "10.9.0.1"
READER = "10.9.1.2"  # behind a slow link; nobody but the attacker lives there
MALLOC, FREE, READ, WRITE, REALLOC, ADD, HELLO = 0, 1, 2, 3, 4, 6, 7
TAGGED, SESSION = 1, 3
RETRY_SECONDS = 0.05
READ_BYTES = 64


def tagged(tag, flags, opcode, *fields, data=b""):
    return struct.pack(f">IHBB{len(fields)}Q", tag, 0, flags, opcode, *fields) + data


class Client:
    """A socket that asks one thing at a time, and asks again until it is answered."""

    def __init__(self, port, address):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.connect((DAEMON, port))
        self.socket.settimeout(RETRY_SECONDS)
        # Not from 1: the port may have been another client's less than a minute ago, with the same tags.
        self.tags = itertools.count(random.randrange(1 << 31))
        self.token = 0

    def prove(self):
        self.token = struct.unpack(">9Q", self.ask(HELLO))[7]
        return self

    def ask(self, opcode, *fields, data=b""):
        tag = next(self.tags)
        return self.insist(
            tagged(tag, SESSION, opcode, 0, self.token, *fields, data=data),
            lambda reply: len(reply) >= 16 and reply[:4] == struct.pack(">I", tag),
        )

    def insist(self, request, is_reply):
        while True:
            self.socket.send(request)
            end = time.monotonic() + RETRY_SECONDS
            try:
                while time.monotonic() < end:
                    reply = self.socket.recv(65536)
                    if is_reply(reply):
                        return reply
            except TimeoutError:
                pass


def add(port, seconds, adds):
    """Adds a second, and by how much the number is off in the end."""
    client = Client(port, DAEMON).prove()
    pointer = client.ask(MALLOC, 8)[16:]
    number, = struct.unpack(">Q", pointer)
    count, start = 0, time.monotonic()
    while time.monotonic() - start < seconds or count < adds:
        reply = client.ask(ADD, number, 1)
        if reply[4:6] != b"\0\0":
            sys.exit(f"an add was refused: {reply.hex()}")
        count += 1
    rate = count / (time.monotonic() - start)
    value, = struct.unpack(">Q", client.ask(ADD, number, 0)[16:])
    client.ask(FREE, number)
    return rate, value - count


def read(port, seconds):
    """Reads a second in the classic protocol."""
    client = Client(port, DAEMON)
    pointer, = struct.unpack(">Q", client.insist(struct.pack(">QQ", MALLOC, READ_BYTES), lambda reply: len(reply) == 8))
    request = struct.pack(">QQQ", READ, pointer, READ_BYTES)
    count, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        client.insist(request, lambda reply: len(reply) == READ_BYTES)
        count += 1
    rate = count / (time.monotonic() - start)
    client.socket.send(struct.pack(">QQ", FREE, pointer))
    return rate


def attack(port, pointer, reader):
    """Every 10 ms, until it is killed: forged reads, reads by who does not fetch, frees; now and then moves."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.bind(("reader", 0x0800))

    def forge(source, data):
        udp = struct.pack(">HHHH", 5000, port, 8 + len(data), 0) + data
        addresses = socket.inet_aton(source) + socket.inet_aton(DAEMON)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
        raw.sendto(ip + udp, (DAEMON, 0))

    forge(READER, tagged(1, SESSION, HELLO, 0, 0))
    token, = struct.unpack(">Q", wire.recv(2048)[42 + 56:42 + 64])
    wire.close()
    mover = Client(port, "10.9.0.2").prove()
    flood = Client(port, "10.9.0.2")
    flood.socket.setblocking(False)
    neighbours = itertools.cycle(f"10.9.0.{i}" for i in range(3, 253))
    classic_read = struct.pack(">QQQ", READ, pointer, 16384)
    slow_read = tagged(1, SESSION, READ, 0, token, pointer, 16384) if reader == "proven" else classic_read
    print("attacking", flush=True)
    due = time.monotonic()
    for turn in itertools.count():
        for _ in range(10):
            forge(next(neighbours), classic_read)
        for _ in range(5):
            forge(READER, slow_read)
        for _ in range(10):
            flood.socket.send(b"".join(tagged(next(flood.tags), TAGGED, FREE, 0) for _ in range(17)))
        if turn % 10 == 0:
            blocks = [struct.unpack(">Q", mover.ask(MALLOC, 1 << 19)[16:])[0] for _ in range(2)]
            mover.ask(WRITE, blocks[0], 60000, data=bytes(60000))
            moved, = struct.unpack(">Q", mover.ask(REALLOC, blocks[0], 1 << 20)[16:])
            mover.ask(FREE, moved)
            mover.ask(FREE, blocks[1])
        due += 0.01
        time.sleep(max(0, due - time.monotonic()))


def main(reader, rounds, seconds, adds, command):
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        ready = daemon.stderr.readline()
        port = re.search(r"address=\S+:(\d+)", ready)
        if port is None:
            sys.exit(ready + daemon.stderr.read())
        port = int(port[1])
        target = Client(port, DAEMON).prove().ask(MALLOC, 16384)[16:]
        script = [sys.executable, __file__, "attack", str(port), str(struct.unpack(">Q", target)[0]), reader]
        add(port, seconds / 2, 0)  # warm-up
        read(port, seconds / 2)
        result = {"tagged": [], "classic": [], "off": 0}
        for _ in range(rounds):
            calm = add(port, seconds, 0), read(port, seconds)
            attacker = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
            try:
                attacker.stdout.readline()
                worst = add(port, seconds, adds), read(port, seconds)
                if attacker.poll() is not None:
                    sys.exit("the attacker has given up")
            finally:
                attacker.kill()
                attacker.wait()
            result["tagged"].append([calm[0][0], worst[0][0]])
            result["classic"].append([calm[1], worst[1]])
            result["off"] += abs(calm[0][1]) + abs(worst[0][1])
    finally:
        daemon.terminate()
        result_totals = daemon.stderr.read()
        daemon.wait()
    if "sendErrors" not in result_totals and "withheld" not in result_totals:
        print("nothing stood in the way: " + result_totals, file=sys.stderr)
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "attack":
        attack(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
