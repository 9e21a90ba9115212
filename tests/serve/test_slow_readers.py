"""Clients that read a large answer slowly, or not at all, while their connection is to be closed."""

import json
import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from serve_cases import service_with

POST = b"POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
LONG = [f"{number:03} {'a' * 500}" for number in range(500)]
NEW = json.dumps({"histories": [[]] * 40, "k": 500, "new_items": [{"item": name, "topic": "law"} for name in LONG]})
LARGE = f"Content-Length: {len(NEW)}\r\n\r\n{NEW}".encode()  # its answer, some 10 MB, fits into no buffer of the system


def ask_for_much(connection, running, sent):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", running.port))
    connection.sendall(sent)


def read_slowly(connections, seconds):
    """Return how much each connection received, at some 100 kB per second, and in the end as fast as it can."""
    received = [bytearray() for _ in connections]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for connection, block in zip(connections, received, strict=True):
            block += connection.recv(5_000)
        time.sleep(0.05)
    for connection, block in zip(connections, received, strict=True):
        while more := connection.recv(2**20):
            block += more
    return received


def is_whole(received):
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    size = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    return size > 8_000_000 and len(body) == size


def test_a_slow_reader_gets_all_of_an_answer_after_which_the_connection_is_closed(recommend_path):
    with service_with(recommend_path, unread=4.0) as running, ExitStack() as stack:
        closed, old, half = (stack.enter_context(socket.socket()) for _ in range(3))
        ask_for_much(closed, running, POST + b"Connection: close\r\n" + LARGE)
        ask_for_much(old, running, POST.replace(b"HTTP/1.1", b"HTTP/1.0") + LARGE)
        ask_for_much(half, running, POST + LARGE)
        half.shutdown(socket.SHUT_WR)
        received = read_slowly([closed, old, half], 14)
        assert [is_whole(one) for one in received] == [True] * 3


def test_a_slow_reader_gets_all_of_an_answer_while_the_service_shuts_down(recommend_path):
    with service_with(recommend_path) as running, socket.socket() as connection:
        ask_for_much(connection, running, POST + LARGE)
        first = connection.recv(1)
        running.process.terminate()
        (rest,) = read_slowly([connection], 6)
        assert is_whole(first + rest)
        assert running.process.wait(60) == 0


def test_a_client_that_does_not_read_its_last_answer_is_closed(recommend_path):
    with service_with(recommend_path, unread=1.0) as running, socket.socket() as connection:
        ask_for_much(connection, running, POST + b"Connection: close\r\n" + LARGE)
        assert connection.recv(1) == b"H"
        until = time.monotonic() + 60
        while open_sockets(running) > 0 and time.monotonic() < until:
            time.sleep(0.2)
        assert open_sockets(running) == 0
        assert httpx.get(f"{running.address}/health").status_code == 200


def open_sockets(running):
    """Return how many accepted connections a process holds, whatever their state."""
    sockets = {link.readlink().name for link in running.files()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{running.port:04X}"
    return sum(row[1].endswith(port) and row[3] != "0A" and f"socket:[{row[9]}]" in sockets for row in rows)
