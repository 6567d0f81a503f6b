"""Who is answered, and what of whatever is sent: bounds on size, time and number."""

import http.client
import json
import socket
import time
from contextlib import closing, suppress
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from edgewise.serving import guard, server
from edgewise.serving.gate import Gate
from edgewise.serving.guard import MOST_BODY_BYTES
from tests.serving.scripted import serving

KEY = "a-key"
HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
JSON = {"Content-Type": "application/json"}
ROUTES = ["/v1/models", "/v1/models/scripted", "/ready", "/metrics", "/api/state", "/openapi.json"]


def ask(url, method, path, body=None, headers=None):
    data = body if isinstance(body, bytes | type(None)) else json.dumps(body).encode()
    with opened(url) as connection:
        connection.request(method, path, data, {**JSON, **(headers or {})})
        response = connection.getresponse()
        return response, response.read()


def opened(url):
    return closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=20))


def error_of(text):
    return json.loads(text)["error"]


def test_without_the_key_nothing_is_answered():
    with serving("x", key=KEY) as (url, host):
        asked = [("GET", path, None) for path in [*ROUTES, "/nothing"]]
        for path in ("/v1/chat/completions", "/v1/completions"):
            asked += [("POST", path, HELLO), ("GET", path, None), ("OPTIONS", path, None)]
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            for method, path, body in asked:
                response, text = ask(url, method, path, body, shown)
                assert response.status == 401, (method, path)
                assert error_of(text)["code"] == "invalid_api_key" and KEY not in text.decode()
        assert not host.asked
        assert ask(url, "GET", f"/v1/models?key={KEY}&api_key={KEY}")[0].status == 401
        for path in ROUTES:
            assert ask(url, "GET", path, None, {"Authorization": f"Bearer {KEY}"})[0].status == 200


def test_without_a_key_only_names_of_this_machine_are_answered():
    with serving() as (url, _):
        port = urlsplit(url).port
        for name, status in (
            (f"localhost:{port}", 200),
            (f"127.0.0.1:{port}", 200),
            ("localhost", 200),
            ("[::1]", 200),
            (f"evil.example:{port}", 403),
            ("evil.example", 403),
            (f"localhost.evil.example:{port}", 403),
            ("", 403),
        ):
            assert ask(url, "GET", "/api/state", None, {"Host": name})[0].status == status, name


def test_health_needs_no_key_and_ready_says_whether_it_serves():
    with serving(key=KEY) as (url, host):
        assert ask(url, "GET", "/health")[0].status == 200
        shown = {"Authorization": f"Bearer {KEY}"}
        assert ask(url, "GET", "/ready", None, shown)[0].status == 200
        host.state = replace(host.state, status="waiting", ready=False)
        response, text = ask(url, "GET", "/ready", None, shown)
        assert response.status == 503 and response.headers["Retry-After"]
        assert error_of(text)["message"] == "waiting"


def test_what_is_not_there():
    with serving() as (url, _):
        for method, path, status in (("GET", "/nothing", 404), ("PUT", "/v1/models", 405)):
            response, text = ask(url, method, path)
            assert response.status == status
            assert error_of(text)["type"] == "invalid_request_error"


def test_a_form_of_another_page_is_no_request():
    """What a browser sends anywhere without asking first."""
    with serving("x") as (url, host):
        body, form = json.dumps(HELLO).encode(), {"Content-Type": "text/plain"}
        assert ask(url, "POST", "/v1/chat/completions", body, form)[0].status == 400
        assert not host.asked


def test_pages_may_ask_only_where_they_are_named():
    origin = {"Origin": "https://example.org"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    with serving() as (url, _):
        assert (
            "Access-Control-Allow-Origin"
            not in ask(url, "GET", "/v1/models", None, origin)[0].headers
        )
    with serving(origins=["https://example.org"], key=KEY) as (url, _):
        response, _ = ask(url, "OPTIONS", "/v1/chat/completions", None, preflight)
        assert response.status == 200
        assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
        other = {**preflight, "Origin": "https://example.com"}
        assert ask(url, "OPTIONS", "/v1/chat/completions", None, other)[0].status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"messages": [{"role": "user", "content": "x"}], "seed": 1' + b"0" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user"}], "chat_template_kwargs": {"shout": "\\udfff"}}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_are_none(body):
    with serving("x") as (url, _):
        response, text = ask(url, "POST", "/v1/chat/completions", body)
        assert response.status in (400, 404), text
        assert error_of(text)["message"]


def test_a_large_body_is_refused_before_it_is_read():
    with serving() as (url, _):
        path = "/v1/chat/completions"
        with socket.create_connection(urlsplit(url).netloc.split(":"), 20) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {10**12}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")
        chunks = (b"x" * 2**16 for _ in range(MOST_BODY_BYTES // 2**16 + 2))
        with opened(url) as connection:
            connection.request("POST", path, chunks, encode_chunked=True)
            assert connection.getresponse().status == 413


def until_closed(connection, seconds=20.0):
    """What the server says before it hangs up."""
    connection.settimeout(seconds)
    said = b""
    with suppress(ConnectionResetError):  # it had not read all
        while part := connection.recv(10_000):
            said += part
    return said


@pytest.mark.parametrize("head", [b"X: " + b"x" * 2**17, b"X: y\r\n" * 20_000])
def test_large_headers_are_refused(head):
    with serving() as (url, _):
        with socket.create_connection(urlsplit(url).netloc.split(":"), 20) as connection:
            with suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head)
            assert until_closed(connection)[:12] in (b"HTTP/1.1 400", b"")
        assert ask(url, "GET", "/health")[0].status == 200


@pytest.mark.timing
def test_whoever_is_slow_is_hung_up_on(monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.5)
    with serving() as (url, _):
        address = urlsplit(url).netloc.split(":")
        silent = [socket.create_connection(address, 20) for _ in range(100)]
        with socket.create_connection(address, 20) as head:
            began = time.monotonic()
            head.sendall(b"GET /health HTTP/1.1\r\n")
            with pytest.raises(OSError):
                for number in range(100):
                    time.sleep(0.05)
                    head.sendall(f"X-{number}: y\r\n".encode())
            assert time.monotonic() - began < 3
        with socket.create_connection(address, 20) as body:
            body.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
            )
            assert until_closed(body).startswith(b"HTTP/1.1 408")
        for connection in silent:
            assert until_closed(connection) == b""
            connection.close()
        assert ask(url, "GET", "/health")[0].status == 200


def test_a_second_request_is_waited_for_no_longer(monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.5)
    with serving() as (url, _), socket.create_connection(urlsplit(url).netloc.split(":")) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while not said.endswith(b"}"):
            said += one.recv(10_000)
        assert said.startswith(b"HTTP/1.1 200")
        one.sendall(b"GET /heal")
        assert until_closed(one) == b""


def wait_until(true, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_is_forgotten(stream):
    with serving("x" * 300, seconds=0.1) as (url, host):
        body = json.dumps({**HELLO, "stream": stream, "n": 2}).encode()
        with opened(url) as connection:
            connection.request("POST", "/v1/chat/completions", body, JSON)
            wait_until(lambda: host.running == 2)
        wait_until(lambda: not host.running, 1)


def test_too_many_come_back_later():
    with serving("x" * 300, seconds=0.1, gate=Gate(2)) as (url, host):
        with opened(url) as waiting:
            two = json.dumps({**HELLO, "n": 2}).encode()
            waiting.request("POST", "/v1/chat/completions", two, JSON)
            wait_until(lambda: host.running == 2)
            for stream in (True, False):
                body = {**HELLO, "stream": stream}
                response, text = ask(url, "POST", "/v1/chat/completions", body)
                assert response.status == 429 and int(response.headers["Retry-After"]) > 0
                assert error_of(text)["type"] == "rate_limit_error"
        wait_until(lambda: not host.running, 1)
        body = {**HELLO, "max_tokens": 1}
        assert ask(url, "POST", "/v1/chat/completions", body)[0].status == 200


def test_more_answers_than_there_may_ever_be_are_refused_for_good():
    with serving("x") as (url, host):
        body = {"prompt": ["a"] * 64, "n": 16}
        response, text = ask(url, "POST", "/v1/completions", body)
        assert response.status == 400 and "Retry-After" not in response.headers
        said = "1024 answers in one call are too many: at most 256 may be"
        assert error_of(text)["message"] == said and not host.asked


def test_a_server_that_is_to_end_answers_what_it_has():
    admission = Gate()
    with (
        serving("one two", seconds=0.05, gate=admission) as (url, host),
        opened(url) as waiting,
    ):
        waiting.request("POST", "/v1/chat/completions", json.dumps(HELLO).encode(), JSON)
        wait_until(lambda: host.running == 1)
        admission.close()
        assert ask(url, "POST", "/v1/chat/completions", HELLO)[0].status == 503
        answer = json.loads(waiting.getresponse().read())
        assert answer["choices"][0]["message"]["content"] == "one two"


@pytest.mark.parametrize("stream", [True, False])
def test_without_a_plan_who_asks_is_told_to_come_back(stream):
    with serving("one") as (url, host):
        host.without_plan = "waiting for devices: 1 MB too little"
        response, text = ask(url, "POST", "/v1/chat/completions", {**HELLO, "stream": stream})
        assert response.status == 503 and int(response.headers["Retry-After"]) > 0
        assert error_of(text)["message"] == host.without_plan and not host.asked
        assert ask(url, "GET", "/ready")[0].status == 503
        assert ask(url, "GET", "/health")[0].status == 200
        host.without_plan = ""
        assert ask(url, "POST", "/v1/chat/completions", HELLO)[0].status == 200
        assert ask(url, "GET", "/ready")[0].status == 200
