"""Run commands where a name server of our own answers, and say what was looked up.

    unshare --user --map-root-user --net --mount python silence_probe.py < commands.json

Reads a list of command lines, runs all at once and prints the names and, for each command, its exit
status and output. A first look-up by this process itself is the proof that look-ups are seen.
"""

import contextlib
import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

CONTROL = "control.example"
REFUSED = 77


def raise_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def answer(server, names):
    """Say of every name that it does not exist."""
    while True:
        query, address = server.recvfrom(4096)
        place, labels = 12, []
        while query[place]:
            labels.append(query[place + 1 : place + 1 + query[place]].decode())
            place += 1 + query[place]
        names.append(".".join(labels))
        server.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], address)


def main():
    commands = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "resolv.conf"
        own.write_text("nameserver 127.0.0.1\noptions attempts:1\n")
        try:
            raise_loopback()
            mount = ("mount", "--bind", str(own), "/etc/resolv.conf")
            subprocess.run(mount, check=True, capture_output=True)
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("127.0.0.1", 53))
        except (OSError, subprocess.CalledProcessError):
            sys.exit(REFUSED)
        names: list[str] = []
        threading.Thread(target=answer, args=(server, names), daemon=True).start()
        with contextlib.suppress(socket.gaierror):
            socket.getaddrinfo(CONTROL, 80)
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for command in commands
        ]
        ended = [(process.communicate()[0], process.returncode) for process in running]
    print(json.dumps({"names": names, "ended": ended}))


if __name__ == "__main__":
    main()
