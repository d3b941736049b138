"""`mtl serve` as a process: many clients at once, bounded memory, how it stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from dots_run import BODY, DOTS
from serve_toys import encoded, image, png

import mtlcore
from mtlcore import load_run
from mtlcore.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REQUESTS = 200
GROWTH_MB = 250  # of the peak: the uploads of 40 requests, and two decodes of 6 million pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    config = folder / "config.toml"
    config.write_text(f'plugins = ["{DOTS}"]\n{BODY}\n[train]\nsteps = 4\neval_every = 0\n')
    mtlcore.train(config, folder / "run", progress=False)
    return folder / "run"


@contextmanager
def served(run: Path, *options: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, and the URL that it prints."""
    command = [sys.executable, "-m", "mtlcore", "serve", str(run), "--port", "0", *options]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whatever started the tests may ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            line = next(line for line in process.stdout if "http" in line)
            yield process, re.search(r"http://\S+", line).group()
        finally:
            process.kill()


def peak_mb(pid: int) -> float:
    """The largest memory that a process had so far."""
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found) / 1000


def photo(width: int, height: int) -> bytes:
    """A JPEG file of about the size that a camera writes."""
    return encoded(image(3).resize((width, height)), "JPEG", quality=90)


def bodies() -> list[tuple[str, list[bytes]]]:
    """Kinds of requests: what they are, and their files."""
    whole = photo(3000, 2000)
    return [
        ("good", [png(1)]),
        ("good", [png(2), encoded(image(5), "JPEG"), png(3)]),
        ("good", [whole]),
        ("good", [png(4), b"not an image"]),
        ("bad", [b"not an image"]),
        ("bad", [whole[: len(whole) // 2]]),
        ("bad", [b""]),
        ("bad", [photo(3001, 2000)]),
        ("bad", [bytes(6_000_000)]),
        ("bad", [png(0)] * 20),
        ("bad", []),
    ]


def test_200_requests_at_once_are_each_answered_in_bounded_memory(
    run: Path, record_property
) -> None:
    kinds = bodies()
    limits = ("--max-bytes", "5000000", "--max-pixels", "6000000", "--max-requests", "40")
    with served(run, *limits) as (process, url), httpx.Client(timeout=120) as client:

        def send(number: int) -> tuple[str, httpx.Response]:
            kind, files = kinds[number % len(kinds)]
            named = [("images", ("a.png", data)) for data in files]
            return kind, client.post(f"{url}/predict", files=named or None)

        send(0)
        before = peak_mb(process.pid)
        with ThreadPoolExecutor(REQUESTS) as clients:
            answered = list(clients.map(send, range(REQUESTS)))
        growth = peak_mb(process.pid) - before

        statuses = Counter((kind, response.status_code) for kind, response in answered)
        record_property("growth_mb", growth)
        record_property("statuses", str(statuses))
        assert len(answered) == REQUESTS
        for kind, response in answered:
            if response.status_code == 200:
                assert kind == "good"
                assert response.json()["predictions"]
                continue
            assert set(response.json()) == {"error"}
            assert response.json()["error"]
            expected = {503} if kind == "good" else {400, 413, 415, 422, 503}
            assert response.status_code in expected
            assert (response.status_code == 503) == ("retry-after" in response.headers)
        assert statuses["good", 200] > 0
        assert growth < GROWTH_MB

        # It still answers as the run does.
        (found,) = send(0)[1].json()["predictions"]
        (expected,) = load_run(run).predictor()([image(1)])
        assert found["answers"]["quarter"]["probabilities"] == pytest.approx(
            expected.answers["quarter"]["probabilities"], abs=1e-5
        )
        assert client.get(f"{url}/health").json() == {"status": "ok", "requests": 0}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stopped_server_finishes_the_requests_in_flight(
    run: Path, number: signal.Signals, code: int
) -> None:
    boundary = b"--b\r\nContent-Disposition: form-data; name=images; filename=a.png\r\n\r\n"
    body = boundary + png() + b"\r\n--b--\r\n"
    head = (
        "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with served(run) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(head.encode() + body[:100])
            with httpx.Client() as client:
                while client.get(f"{url}/health").json()["requests"] < 1:
                    pass
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            connection.sendall(body[100:])
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"quarter"' in answer
        assert process.wait(60) == code
        assert process.stderr.read() == ""


def test_an_address_in_use_is_an_error_that_says_what_to_type(run: Path, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", str(run), "--port", str(port)]) == 2
    assert f"can't serve at 127.0.0.1 port {port}" in capsys.readouterr().err


def test_an_open_address_prints_a_warning(run: Path) -> None:
    command = [sys.executable, "-m", "mtlcore", "serve", str(run), "--host", "0.0.0.0"]
    environment = os.environ | {"COLUMNS": "80"}
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert "docs/responsible-use.md" in process.stdout.readline()
            assert "http://0.0.0.0:" in process.stdout.readline()
        finally:
            process.kill()
