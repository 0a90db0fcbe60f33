/** The daemon on a network of its own: namespaces that only the test's processes see, and that end with them. */

import { assertEquals, assertMatch } from "@std/assert";
import { LIBC_PATHS } from "../../lib/system/libc.ts";
import { CLIENT, DIST, MALLOCD, run } from "./programs.ts";

/**
 * usage: COMMAND... A network with a neighbourhood, 10.9.0.0/24, in which nobody lives but this host, which is
 * 10.9.0.1 and 10.9.0.2; the loopback addresses; and a link with IPv6.
 */
const NETWORK = `set -eu
ip link set lo up
ip link add near type veth peer name far
ip addr add 10.9.0.1/24 dev near
ip addr add 10.9.0.2/24 dev near
ip addr add fd09::1/64 dev near nodad
ip addr add fe80::9/64 dev near nodad
ip link set near up
ip link set far up
exec "$@"`;

async function findWay(): Promise<{ way: string[]; missing: string }> {
  let missing = "";
  for (const way of [["--net"], ["--net", "--map-root-user"]]) {
    try {
      const script = ["sh", "-c", NETWORK, "sh", "python3", "-c", ""];
      const { code, stderr } = await run("unshare", [...way, ...script]);
      if (code === 0) return { way, missing: "" };
      missing = ` (skipped: ${stderr.trim().split("\n").at(-1)})`;
    } catch (error) {
      missing = ` (skipped: no unshare: ${(error as Error).name})`;
    }
  }
  return { way: [], missing };
}

const { way, missing } = await findWay();
const made = await Deno.readTextFile(`${DIST}.engine`);
const hasLibc = LIBC_PATHS.some((path) => {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
});
const noSyscall = Deno.build.os === "linux" && hasLibc && made.trim() !== "datagram"
  ? ""
  : " (skipped: no syscall engine)";

/** What every script begins with: `start` makes a daemon, `forge` sends from any address. */
const PRELUDE = `
import atexit, ctypes, os, re, signal, socket, struct, subprocess, sys, time

def start(*args, before=None):
    command = [sys.argv[1], "--port", "0", *args]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=before)
    atexit.register(daemon.kill)  # whatever else goes wrong: one that goes on would keep the output open
    ready = daemon.stderr.readline()
    port = re.search(r"address=\\S+:(\\d+)", ready)
    if port is None: sys.exit(ready + daemon.stderr.read())
    return daemon, int(port[1]), ready

def asker(family=socket.AF_INET):
    own = socket.socket(family, socket.SOCK_DGRAM)
    own.settimeout(5)
    return own

raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def forge(source, target, port, data):
    udp = struct.pack(">HHHH", 5000, port, 8 + len(data), 0) + data
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses
    raw.sendto(ip + udp, (target, 0))

MALLOC = struct.pack(">QQ", 0, 64)
`;

/** Runs a script in Python, which says what went wrong, on the network. */
function testOnNetwork(name: string, skip: string, script: string): void {
  Deno.test({
    name: name + (missing || skip),
    ignore: missing !== "" || skip !== "",
    async fn() {
      const python = ["python3", "-c", PRELUDE + script, MALLOCD, CLIENT];
      const { code, stdout, stderr } = await run("unshare", [
        ...way,
        ...["sh", "-c", NETWORK, "sh", ...python],
      ]);
      assertEquals([code, stderr], [0, ""]);
      assertMatch(stdout, /^fine\n$/);
    },
  });
}

testOnNetwork(
  "mallocd answers others while answers wait for neighbours that are not there",
  noSyscall,
  `
daemon, port, _ = start("--engine", "syscall", "--host", "0.0.0.0", "--allow", "10.9.0.0/24,127.0.0.0/8")
own = asker()
own.sendto(MALLOC, ("127.0.0.1", port))
pointer, = struct.unpack(">Q", own.recv(64))
read = struct.pack(">QQQ", 2, pointer, 16384)
answered = 0
own.settimeout(0.5)
for round in range(50):
    for i in range(20): forge(f"10.9.0.{3 + (round * 20 + i) % 250}", "10.9.0.1", port, read)
    own.sendto(MALLOC, ("127.0.0.1", port))
    try:
        answered += len(own.recv(64)) == 8
    except TimeoutError: pass
daemon.terminate()
totals = daemon.stderr.read()
if "read=1000" not in totals: sys.exit("nothing was in the way: " + totals)
if answered != 50: sys.exit(f"{answered} of 50 were answered: {totals}")
print("fine")
`,
);

testOnNetwork(
  "mallocd answers others while a slow reader that has proven its address has fetched nothing",
  noSyscall,
  `
for command in (
    "ip link add slow type veth peer name reader",
    "ip addr add 10.9.1.1/24 dev slow",
    "ip link set slow up",
    "ip link set reader up",
    "ip neigh add 10.9.1.2 lladdr 02:00:00:00:00:02 dev slow nud permanent",
    "tc qdisc add dev slow root tbf rate 1mbit burst 32kb limit 64mb",
): subprocess.run(command.split(), check=True)
daemon, port, _ = start("--engine", "syscall", "--host", "0.0.0.0", "--allow", "10.9.1.0/24,127.0.0.0/8")
own = asker()
own.sendto(MALLOC, ("127.0.0.1", port))
pointer, = struct.unpack(">Q", own.recv(64))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
wire.bind(("reader", 0x0800))
wire.settimeout(5)
def send(opcode, *fields):
    data = struct.pack(f">IHBB{len(fields)}Q", 1, 0, 3, opcode, *fields)
    forge("10.9.1.2", "10.9.1.1", port, data)
send(7, 0, 0)
token, = struct.unpack(">Q", wire.recv(2048)[42 + 56:42 + 64])
served = 0
for address in range(1, 9):
    own = asker()
    own.bind((f"127.0.0.{address}", 0))
    own.settimeout(0.5)
    answered = 0
    for round in range(5):
        for i in range(100): send(2, 0, token, pointer, 16384)
        own.sendto(MALLOC, (f"127.0.0.{address}", port))
        try:
            answered += len(own.recv(64)) == 8
        except TimeoutError: break
    served += answered == 5
daemon.terminate()
totals = daemon.stderr.read()
if "sendErrors" not in totals or "unproven" in totals: sys.exit("nothing was in the way: " + totals)
if served < 2: sys.exit(f"{served} of 8 were answered: {totals}")  # who has the same buffer is not
print("fine")
`,
);

testOnNetwork(
  "mallocd answers others while answers wait for neighbours by IPv6, which have a zone or not",
  noSyscall,
  `
daemon, port, _ = start("--engine", "syscall", "--host", "::", "--allow", "fd09::/64,fe80::/64,::1")
own = asker(socket.AF_INET6)
own.sendto(MALLOC, ("::1", port))
pointer, = struct.unpack(">Q", own.recv(64))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("far", 0))
near = bytes.fromhex("020000000001")
subprocess.run("ip link set near address 02:00:00:00:00:01".split(), check=True)
read = struct.pack(">QQQ", 2, pointer, 16384)
def forge(network, host, neighbour, data):
    source, target = (socket.inet_pton(socket.AF_INET6, network + str(end)) for end in (neighbour, host))
    udp = struct.pack(">HHHH", 5000, port, 8 + len(data), 0) + data
    words = source + target + struct.pack(">II", len(udp), 17) + udp
    total = sum(struct.unpack(f">{len(words) // 2}H", words))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    udp = udp[:6] + struct.pack(">H", ~total & 0xffff or 0xffff) + udp[8:]
    ip = struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + source + target
    wire.send(near + b"\\x02\\0\\0\\0\\0\\x09" + b"\\x86\\xdd" + ip + udp)
answered = 0
own.settimeout(0.5)
for round in range(50):
    for i in range(20):
        network, host = (("fd09::", 1), ("fe80::", 9))[i % 2]
        forge(network, host, 100 + (round * 20 + i) % 500, b"" if i > 17 else read)
    own.sendto(MALLOC, ("::1", port))
    try:
        answered += len(own.recv(64)) == 8
    except TimeoutError: pass
daemon.terminate()
totals = daemon.stderr.read()
if "read=900" not in totals or "truncated=100" not in totals: sys.exit("nothing was in the way: " + totals)
if answered != 50: sys.exit(f"{answered} of 50 were answered: {totals}")
print("fine")
`,
);

testOnNetwork(
  "mallocd with the datagram engine answers the proven again when replies to others have had to wait",
  "",
  `
for command in (
    "ip link add slow type veth peer name reader",
    "ip addr add 10.9.1.1/24 dev slow",
    "ip link set slow up",
    "ip link set reader up",
    "ip neigh add 10.9.1.2 lladdr 02:00:00:00:00:02 dev slow nud permanent",
    "tc qdisc add dev slow root tbf rate 10mbit burst 32kb limit 64mb",
): subprocess.run(command.split(), check=True)
for sources in ["10.9.1.2"], [f"10.9.0.{i}" for i in range(3, 253)]:
    daemon, port, _ = start("--engine", "datagram", "--host", "10.9.0.1", "--allow", "10.9.0.0/16")
    own = asker()
    own.bind(("10.9.0.2", 0))
    own.settimeout(0.5)
    tag = token = 0
    def ask(opcode, *fields):
        global tag
        tag += 1
        own.sendto(struct.pack(f">IHBB{2 + len(fields)}Q", tag, 0, 3, opcode, 0, token, *fields), ("10.9.0.1", port))
        try:
            while True:
                reply = own.recv(2048)
                if reply[:4] == struct.pack(">I", tag): return reply[16:]
        except TimeoutError: pass
    token, = struct.unpack(">Q", ask(7)[40:48])
    pointer, = struct.unpack(">Q", ask(0, 16384))
    read = struct.pack(">QQQ", 2, pointer, 16384)
    forged = 0
    def attack():
        global forged
        for i in range(20):
            forge(sources[forged % len(sources)], "10.9.0.1", port, read)
            forged += 1
    answered = tries = 0
    # What it does at first is to wait; when it has waited enough nothing is in the way any more.
    while answered < 50 and tries < 1000:
        tries += 1
        attack()
        answered = answered + 1 if ask(6, pointer, 1) else 0
    daemon.terminate()
    totals = daemon.stderr.read()
    if "withheld=" not in totals: sys.exit("nothing was in the way: " + totals)
    if answered != 50: sys.exit(f"{answered} were answered, one after the other: {totals}")
print("fine")
`,
);

testOnNetwork(
  "mallocd answers from the address that was asked, whatever it listens on",
  noSyscall,
  `
V6 = socket.AF_INET6
def ask(host, port, family=socket.AF_INET):
    own = asker(family)
    own.sendto(MALLOC, socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0][4])
    reply, (source, *_) = own.recvfrom(64)
    if len(reply) != 8 or source.split("%")[0] != host.split("%")[0]: sys.exit(f"{host} was asked, {source} answered")
for host, hosts in {
    "0.0.0.0": ["127.0.0.1", "127.0.0.2", "10.9.0.1", "10.9.0.2"],
    "::": ["127.0.0.1", "127.0.0.2", "10.9.0.1", "10.9.0.2", "::1", "fd09::1", "fe80::9%near"],
    "fe80::9%near": ["fe80::9%near"],
    "::ffff:127.0.0.1": ["127.0.0.1"],
}.items():
    daemon, port, _ = start("--engine", "syscall", "--host", host, "--anyone")
    for asked in hosts: ask(asked, port, V6 if ":" in asked else socket.AF_INET)
    daemon.terminate()
    daemon.wait()
daemon, port, _ = start("--engine", "datagram", "--host", "fe80::9%near", "--anyone")
ask("fe80::9%near", port, V6)
daemon.terminate()
print("fine")
`,
);

testOnNetwork(
  "mallocd-client reaches mapped addresses, and link-local ones by their zone",
  noSyscall,
  `
for host, server in {
    "127.0.0.1": "[::ffff:127.0.0.1]", "10.9.0.1": "[::ffff:a09:1]", "fe80::9%near": "[fe80::9%near]",
}.items():
    daemon, port, _ = start("--engine", "syscall", "--host", host, "--allow", "10.9.0.0/24,fe80::/10,127.0.0.1")
    command = [sys.argv[2], "--server", f"{server}:{port}", "malloc", "64"]
    malloc = subprocess.run(command, capture_output=True, text=True)
    if malloc.returncode != 0: sys.exit(f"{server}: {malloc.stderr}")
    daemon.terminate()
print("fine")
`,
);

testOnNetwork(
  "mallocd --engine auto takes the datagram engine where recvmmsg or sendmmsg is refused",
  noSyscall,
  `
NUMBERS = {
    "x86_64": {"recvmmsg": 299, "sendmmsg": 307},
    "aarch64": {"recvmmsg": 243, "sendmmsg": 269},
}[os.uname().machine]

def without(call, errno):
    """A filter of system calls, seccomp(2), which answers one of them with an error."""
    allow, refuse = 0x7fff0000, 0x50000 | errno
    program = struct.pack("<" + 4 * "HBBI", 0x20, 0, 0, 0, 0x15, 0, 1, NUMBERS[call], 6, 0, 0, refuse, 6, 0, 0, allow)
    def install():
        instructions = ctypes.create_string_buffer(program)
        prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(instructions)))
        number = ctypes.c_ulong
        libc = ctypes.CDLL(None)
        libc.prctl(38, number(1), number(0), number(0), number(0))
        if libc.prctl(22, number(2), prog) != 0: raise OSError("no seccomp")
    return install

for call in NUMBERS:
    for errno in (1, 38):  # EPERM, ENOSYS
        daemon, port, ready = start(before=without(call, errno))
        if "engine=datagram" not in ready or call not in ready: sys.exit(ready)
        own = asker()
        own.sendto(MALLOC, ("127.0.0.1", port))
        if len(own.recv(64)) != 8: sys.exit("no pointer")
        daemon.terminate()
        command = [sys.argv[1], "--port", "0", "--engine", "syscall"]
        refused = subprocess.run(command, capture_output=True, text=True, preexec_fn=without(call, errno))
        if refused.returncode != 1 or call not in refused.stderr: sys.exit(refused.stderr)
print("fine")
`,
);

testOnNetwork(
  "mallocd survives HUP, USR1 and USR2, and tells its totals at USR1",
  "",
  `
daemon, port, _ = start()
own = asker()
own.sendto(MALLOC, ("127.0.0.1", port))
own.recv(64)
for name in (signal.SIGHUP, signal.SIGUSR2, signal.SIGUSR1): daemon.send_signal(name)
totals = daemon.stderr.readline()
if "level=info msg=totals received=1 " not in totals: sys.exit(totals)
daemon.terminate()
end = daemon.stderr.read()
# The answer can be here before it has been counted there.
counts = lambda line: [pair for pair in line.split() if re.match(r"(?!level|msg|signal|sent)", pair)]
if daemon.wait() != 0 or counts(end) != counts(totals): sys.exit(totals + end)
print("fine")
`,
);

testOnNetwork(
  "mallocd --anyone off loopback warns in one line",
  "",
  `
daemon, port, _ = start("--host", "10.9.0.1", "--anyone")
if not daemon.stderr.readline().startswith("level=warn msg=warning reason="): sys.exit("no warning")
daemon.terminate()
if daemon.stderr.read().count("\\n") != 1: sys.exit("more than one line")
print("fine")
`,
);
