"""Requests as bytes on a socket: too large, too slow, malformed, half-closed or too many, and their answers."""

import json
import re
import resource
import select
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from hyperfocal.serve.connection import PIPELINED, SPARE
from serve_cases import ITEMS, answers, benchmark, connect, converse, reason, service_with

BENCHMARK = benchmark()
GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BODY = json.dumps({"histories": [["Algebra"]], "k": 1}).encode()
END = b"Connection: close\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
ONE = b"%x\r\n%s\r\n" % (len(BODY), BODY)
UPGRADE = b"Connection: Upgrade\r\nUpgrade: "


def length(number):
    return b"Content-Length: %s\r\n" % str(number).encode()


WHOLE = POST + length(len(BODY)) + b"\r\n" + BODY


@pytest.fixture(scope="module")
def running(recommending):
    class Running:
        port = recommending.base_url.port

    return Running


@pytest.fixture(scope="module")
def hasty(recommend_path):
    """Return a service with short deadlines and few connections."""
    limits = {"head": 2.0, "seconds": 2.0, "idle": 3.0, "unread": 1.0, "connections": 120}
    with service_with(recommend_path, **limits) as running:
        yield running


@pytest.mark.parametrize(
    ("sent", "refused"),
    [
        (GET + b"X: " + b"a" * 10_000_000 + b"\r\n\r\n", (431, "head_too_large")),
        (GET + b"X: " + b"a" * 33_000, (431, "head_too_large")),  # before its end
        (GET + b"X: a\r\n" * 101 + b"\r\n", (431, "head_too_large")),
        (GET + (b"X: " + b"a" * 1_000 + b"\r\n") * 40 + b"\r\n", (431, "head_too_large")),
        (b"GET /" + b"a" * 8_192 + b" HTTP/1.1\r\n\r\n", (414, "url_too_long")),
        (b"GET /" + b"a" * 10_000_000, (414, "url_too_long")),
        (b"GET /?" + b"a" * 10_000_000, (414, "url_too_long")),
        (CHUNKED + ONE + b"0\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", (431, "head_too_large")),
        (CHUNKED + ONE + b"0\r\n" + b"X: a\r\n" * 100 + b"\r\n", (431, "head_too_large")),
        (CHUNKED + b"1;" + b"a" * 400_000 + b"\r\n{\r\n0\r\n\r\n", (431, "head_too_large")),
        (CHUNKED + b"1;aaaaaaaaaaaaaaaaaaaa\r\n{\r\n" * 40_000, (431, "head_too_large")),
        (CHUNKED + b"x\r\n", (400, "malformed")),
        (CHUNKED + b"99999999999999999999\r\n", (400, "malformed")),
        (POST + length("abc") + b"\r\n", (400, "malformed")),
        (POST + length(-1) + b"\r\n", (400, "malformed")),
        (POST + length("+1") + b"\r\n1", (400, "malformed")),
        (POST + length("1, 1") + b"\r\n1", (400, "malformed")),
        (POST + length("") + b"\r\n", (400, "malformed")),
        (POST + length(1) * 2 + b"\r\n1", (400, "malformed")),
        (POST + length(10**30) + b"\r\n", (400, "malformed")),
        (POST + length(10**18) + b"\r\n", (413, "too_large")),
        (POST + length(1) + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400, "malformed")),
        (POST + b"Transfer-Encoding: chunked\r\n" + length(1) + b"\r\n0\r\n\r\n", (400, "malformed")),
        (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (400, "malformed")),
        (
            POST.replace(b"application/json", b"text/plain") + length(9) + b"Expect: 100-continue\r\n\r\n",
            (415, "not_json"),
        ),
        (b"BREW / HTTP/1.1\r\n" + END, (400, "malformed")),
        (b"CONNECT a:443 HTTP/1.1\r\n\r\n", (400, "malformed")),
        (b"CONNECT a:443 HTTP/1.1\r\n" + UPGRADE + b"h2c\r\n" + length(5) + b"\r\nhello", (400, "malformed")),
        (GET + UPGRADE + b"h2c\r\n" + b"X: a\r\n" * 101 + b"\r\n", (431, "head_too_large")),
        (GET + UPGRADE + b"h2c\r\nX: " + b"a" * 33_000 + b"\r\n\r\n", (431, "head_too_large")),
        (POST + UPGRADE + b"h2c\r\n" + length(5) + b"\r\nhello", (400, "malformed")),
        (CHUNKED[:-2] + UPGRADE + b"h2c\r\n\r\nx\r\n", (400, "malformed")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "malformed")),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400, "malformed")),  # the hello of TLS
        (b"GET / HTTP/3.0\r\n\r\n", (400, "malformed")),
        (b"GET /\xff HTTP/1.1\r\n\r\n", (400, "malformed")),
        (GET + b"X y: a\r\n\r\n", (400, "malformed")),
        (GET + b"X: a\0b\r\n\r\n", (400, "malformed")),
        (GET + b"X: a\r\n b\r\n\r\n", (400, "malformed")),  # a folded header
        (GET + b"Host: localhost\r\n\r\n", (400, "malformed")),  # a second Host
        (b"GET http://evil.example/v1/model HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END, (403, "foreign_host")),
        (GET.replace(b"GET", b"OPTIONS") + END, (405, "method_not_allowed")),
        (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n" + END, (404, "not_found")),
    ],
)
def test_a_request_that_is_refused_gets_a_reason_and_its_connection_is_closed(running, sent, refused):
    (answer,) = converse(running, sent)
    assert reason(answer) == refused
    assert answer[1]["connection"] == "close"
    assert answer[1]["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "sent",
    [
        GET + b"X: " + b"a" * 32_000 + b"\r\n" + END,
        GET + b"X: a\r\n" * 98 + END,
        b"\r\n\r\n" + GET + END,
        GET + length(5) + END + b"hello",
        b"GET http://127.0.0.1/health HTTP/1.1\r\nHost: evil.example\r\n" + END,
        b"GET http://[::1]:8000/v1/model HTTP/1.1\r\nHost: evil.example\r\n" + END,
        b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n" + END,
        GET + UPGRADE + b"h2c\r\n\r\n",
        GET.replace(b"/health", b"/") + UPGRADE + b"websocket\r\nSec-WebSocket-Key: dGhl\r\n\r\n",
        POST + length(len(BODY)) + END + BODY,
        CHUNKED.replace(b"\r\n\r\n", b"\r\n" + END) + b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        CHUNKED.replace(b"\r\n\r\n", b"\r\n" + END) + ONE + b"0\r\nX: a\r\n\r\n",
    ],
)
def test_a_request_within_the_limits_is_answered(running, sent):
    (answer,) = converse(running, sent)
    assert answer[0] == 200
    assert answer[1]["connection"] == "close"


JAVA = (  # the head that java.net.http.HttpClient sends by default
    b"POST /v1/recommend HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nContent-Length: %d\r\nHost: 127.0.0.1\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\nUser-Agent: Java-http-client/21\r\n"
    b"Content-Type: application/json\r\n\r\n%b"
) % (len(BODY), BODY)
UPGRADES = [
    JAVA,
    POST + UPGRADE + b"websocket\r\n" + length(len(BODY)) + b"\r\n" + BODY,
    CHUNKED[:-2] + UPGRADE + b"h2c\r\n\r\n" + ONE + b"0\r\nX: a\r\n\r\n",
    JAVA.replace(b"HTTP/1.1", b"HTTP/1.0"),
]


@pytest.mark.parametrize("sent", UPGRADES)
@pytest.mark.parametrize("pieces", [1, 2, 1_000])
def test_a_wish_for_another_protocol_is_ignored_and_the_body_read(running, sent, pieces):
    ((_, _, expected),) = converse(running, POST + length(len(BODY)) + END + BODY)
    step = -(-len(sent) // pieces)
    with connect(running) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), step):
            connection.sendall(sent[start : start + step])
        ((status, headers, body),) = answers(connection)
    assert (status, headers["connection"]) == (200, "close")
    assert body == expected


def test_a_body_after_a_wish_for_another_protocol_is_no_request(running, recommending):
    before = recommending.get("/v1/model").json()["loaded"]
    reload = b"POST /v1/reload HTTP/1.1\r\nHost: 127.0.0.1\r\n" + length(0) + b"\r\n"
    inside = POST + UPGRADE + b"h2c\r\n" + length(len(reload)) + b"\r\n" + reload
    (answer,) = converse(running, inside)
    assert reason(answer) == (400, "malformed")
    assert b"JSON" in answer[2]
    assert recommending.get("/v1/model").json()["loaded"] == before


@pytest.mark.parametrize("sent", UPGRADES)
@pytest.mark.parametrize("pause", [0, 0.3])
@pytest.mark.parametrize("extra", [WHOLE, JAVA, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x81\x85\0\0\0\0hello"])
def test_nothing_after_a_wish_for_another_protocol_is_answered(running, recommending, sent, pause, extra):
    """A proxy that takes the connection for a tunnel passes on what its client sends."""
    with connect(running) as connection:
        connection.sendall(sent + (b"" if pause else extra))
        time.sleep(pause)
        if pause:
            with suppress(ConnectionError):
                connection.sendall(extra)
        received = answers(connection)
    assert [status for status, _, _ in received] == [200]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/model", "/", "/docs", "/openapi.json"])
def test_head_is_answered_like_get_without_the_content(running, path):
    get = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n" % path.encode() + END
    ((status, headers, body),) = converse(running, get)
    ((head_status, head_headers, nothing),) = converse(running, get.replace(b"GET", b"HEAD"))
    assert (status, head_status, nothing) == (200, 200, b"")
    assert head_headers["content-type"] == headers["content-type"]
    if path != "/metrics":  # whose counts differ
        assert int(head_headers["content-length"]) == len(body)


def test_an_expectation_is_met_before_the_body_is_sent(running):
    with connect(running) as connection:
        connection.sendall(POST + length(len(BODY)) + b"Expect: 100-continue\r\n" + END)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        ((status, _, _),) = answers(connection)
    assert status == 200


def test_a_client_that_shuts_down_its_side_gets_all_its_answers(running):
    assert [status for status, _, _ in converse(running, WHOLE, half=True)] == [200]
    assert [status for status, _, _ in converse(running, WHOLE + GET + b"\r\n" + WHOLE, half=True)] == [200] * 3
    assert [reason(one) for one in converse(running, GET, half=True)] == [(400, "malformed")]
    assert [reason(one) for one in converse(running, WHOLE[:-5], half=True)] == [(400, "malformed")]
    assert converse(running, b"", half=True) == []


def test_answers_come_in_order_and_a_refusal_last(running):
    many = converse(running, WHOLE + (GET + b"\r\n") * 3 + b"garbage\r\n\r\n")
    assert [status for status, _, _ in many] == [200] * 4 + [400]
    assert b"Algebra" not in many[0][2]
    assert b"alive" in many[3][2]
    too_many = converse(running, (GET + b"\r\n") * 10 * PIPELINED)
    assert [status for status, _, _ in too_many[:-1]] == [200] * (PIPELINED + 1)
    assert reason(too_many[-1]) == (429, "busy")
    assert too_many[-1][1]["retry-after"] == "1"


@pytest.mark.parametrize("size", [33_000, 60_000])
def test_a_head_that_arrives_with_an_earlier_request_has_the_same_limit(running, size):
    large = GET + b"X: " + b"a" * size + b"\r\n\r\n"
    for earlier in (GET + b"\r\n", WHOLE):
        ok, refused = converse(running, earlier + large)
        assert ok[0] == 200
        assert reason(refused) == (431, "head_too_large")


def test_a_body_that_ends_too_early_reloads_nothing(running, recommending):
    before = recommending.get("/v1/model").json()["loaded"]
    sent = WHOLE.replace(b"recommend", b"reload")[:-1].replace(BODY[:-1], b"{" + b" " * (len(BODY) - 2))
    assert [reason(one) for one in converse(running, sent, half=True)] == [(400, "malformed")]
    with connect(running) as connection:
        connection.sendall(sent)
    time.sleep(0.3)
    assert recommending.get("/v1/model").json()["loaded"] == before


def ended(connection):
    """Return what arrives until the service closes a connection, and after how many seconds it did."""
    began = time.monotonic()
    try:
        received = answers(connection)
    except ConnectionResetError:
        received = []
    return received, time.monotonic() - began


def test_slow_and_silent_clients_are_closed_while_others_are_served(hasty):
    cases = {
        b"": None,  # silent
        b"\r\n": None,
        GET: (408, "too_slow"),
        b"GE": (408, "too_slow"),
        GET + b"\r\n" + GET: (408, "too_slow"),  # the second one is slow
        POST + length(99) + b"\r\n{": (408, "too_slow"),
        POST.replace(b"application/json", b"text/html") + length(99) + b"\r\n{": (415, "not_json"),
        GET + length(99) + b"\r\n": (408, "too_slow"),
        CHUNKED + b"1\r\n{\r\n": (408, "too_slow"),
    }
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(hasty)) for _ in cases]
        for sent, connection in zip(cases, connections, strict=True):
            connection.sendall(sent)
        assert httpx.get(f"{hasty.address}/health").status_code == 200
        for sent, connection in zip(cases, connections, strict=True):
            received, _ = ended(connection)
            assert (reason(received[-1]) if received else None) == cases[sent], sent


def test_good_clients_are_served_while_many_are_slow(hasty):
    """`benchmarks/serve_attack.py` measures how fast."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(hasty)) for _ in range(90)]
        for place, connection in enumerate(slow):
            connection.sendall((b"", GET, POST + length(99) + b"\r\n{")[place % 3])
        load = BENCHMARK.load(urlsplit(hasty.address), [WHOLE], 16, most=400)
        assert (len(load.seconds), load.failed) == (400, 0)
        for connection in slow:
            ended(connection)
    assert until_served(hasty)


def test_a_client_that_sends_byte_after_byte_is_closed(hasty):
    for sent in (GET + b"X: " + b"a" * 1_000, POST + length(1_000) + b"\r\n" + b" " * 900, b"\r\n" * 1_000):
        with connect(hasty) as connection, pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(connection, sent)


def drip(connection, sent):
    for place in range(len(sent)):
        connection.sendall(sent[place : place + 1])
        time.sleep(0.05)


def test_an_unused_connection_is_closed(hasty):
    with connect(hasty) as connection:
        connection.sendall(GET + b"\r\n")
        received, seconds = ended(connection)
        assert [status for status, _, _ in received] == [200]
        assert 2.5 < seconds < 60


def test_a_client_that_does_not_read_is_closed(hasty):
    """Its answers, of some 10 MB together, fit into no buffer of the system."""
    body = json.dumps({"histories": [ITEMS[:3]] * 900, "k": 20}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", hasty.port))
        connection.sendall((POST + length(len(body)) + b"\r\n" + body) * 30)
        for wanted in (1, 0):  # the service accepts it some time after `connect`, and then closes it
            until = time.monotonic() + 60
            while open_connections(hasty) != wanted and time.monotonic() < until:
                time.sleep(0.05)
            assert open_connections(hasty) == wanted
        assert len(ended(connection)[0]) < 30  # it was not closed after all of them
    assert httpx.get(f"{hasty.address}/health").status_code == 200


def open_connections(running):
    """Return how many TCP connections a process has established, itself."""
    sockets = {link.readlink().name for link in running.files()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{running.port:04X}"
    return sum(row[1].endswith(port) and row[3] == "01" and f"socket:[{row[9]}]" in sockets for row in rows)


def test_a_connection_too_many_is_told_so_and_those_before_are_served(hasty):
    with ExitStack() as stack:
        first = stack.enter_context(connect(hasty))
        assert is_alive(first)
        rest = [stack.enter_context(connect(hasty)) for _ in range(120)]
        received, _ = ended(rest[-1])
        assert reason(received[0]) == (503, "too_many_connections")
        assert received[0][1]["retry-after"] == "1"
        assert is_alive(first)
        flood = [stack.enter_context(connect(hasty)) for _ in range(2 * SPARE)]
        ended(flood[-1])
    assert until_served(hasty)


def test_refused_connections_are_logged_with_the_option_that_allows_more(recommend_path):
    with service_with(recommend_path, connections=1) as running, connect(running) as first:
        assert is_alive(first)
        assert reason(converse(running, b"")[0]) == (503, "too_many_connections")
        assert select.select([running.process.stderr], [], [], 60)[0]
        said = running.process.stderr.readline()
        assert said == "WARNING: 1 connections were refused: too many were open. Raise --connections\n"


def is_alive(connection):
    """Ask once over a connection that stays open."""
    connection.sendall(GET + b"\r\n")
    received = b""
    while not received.endswith(b'{"status":"alive"}'):
        block = connection.recv(2**16)
        if not block:
            return False
        received += block
    return True


def until_served(running):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"{running.address}/health").status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    return False


def test_without_file_descriptors_it_says_so_and_serves_the_open_connections(recommend_path):
    with service_with(recommend_path) as running, httpx.Client(base_url=running.address) as client:
        assert client.get("/health").status_code == 200
        files = len(running.files())
        _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (files + 3, hard))
        with ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connect(running))
            began = running.cpu_seconds()
            time.sleep(3)
            assert client.get("/health").status_code == 200
            assert running.cpu_seconds() - began < 1.5  # of 3: no busy loop
        assert until_served(running)
        code, said = running.end()
    assert code == 0
    assert len(re.findall("no file descriptor is left", said)) == 1


def test_hostile_heads_leave_no_memory_behind(running, recommending):
    """The benchmark `benchmarks/serve_attack.py` sends a gigabyte."""

    def resident():
        return float(re.search(r"^process_resident_memory_bytes (\S+)", recommending.get("/metrics").text, re.M)[1])

    many = b"a" * 4_000_000
    trailer = CHUNKED + ONE + b"0\r\nX: " + many
    attacks = (GET + b"X: " + many + b"\r\n\r\n", b"GET /" + many, GET + b"X: a\r\n" * 500_000, trailer)
    for sent in attacks:
        converse(running, sent)
    before = resident()
    for _ in range(6):
        for sent in attacks:
            converse(running, sent)
    assert resident() - before < 20 * 2**20
