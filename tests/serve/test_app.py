"""The endpoints of `mtl serve`, in process: answers, limits, errors."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from attrs import fields
from serve_toys import Broken, Gate, Halves, encoded, image, png, predictor
from starlette.testclient import TestClient

from mtlcore import MtlError
from mtlcore.cli.serve import serve as command
from mtlcore.serve import Limits, create_app
from mtlcore.serve.server import is_loopback

EXIF_ORIENTATION = 0x0112
BOUNDARY = "a1b2"


@contextmanager
def client_of(detector=None, limits: Limits | None = None, **options) -> Iterator[TestClient]:
    with TestClient(create_app(predictor(detector), {}, limits), **options) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(limits=Limits(max_bytes=50_000, max_images=3, max_pixels=2_000)) as found:
        yield found


def send(client: TestClient, *files: bytes, names: tuple[str, ...] = ()) -> httpx.Response:
    named = names or tuple(f"{number}.png" for number in range(len(files)))
    return client.post(
        "/predict", files=[("images", pair) for pair in zip(named, files, strict=True)]
    )


def reason(response: httpx.Response, status: int) -> str:
    """The reason of a refused request, which is all that its body holds."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return response.json()["error"]


def close_to(answer: object) -> object:
    """Numbers to 1e-5; the rest exactly."""
    if isinstance(answer, dict):
        return {name: close_to(inner) for name, inner in answer.items()}
    return pytest.approx(answer, abs=1e-5) if isinstance(answer, float) else answer


# ------------------------------------------------------------------------------------- answers


def test_answers_are_those_of_the_predictor(client: TestClient, tmp_path: Path) -> None:
    turned = image(1).getexif()
    turned[EXIF_ORIENTATION] = 6
    files = {
        "noise.png": png(0),
        "turned.jpg": encoded(image(1), "JPEG", exif=turned),
        "gray.bmp": encoded(image(2).convert("L"), "BMP"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    expected = predictor()([tmp_path / name for name in files])

    response = send(client, *files.values(), names=tuple(files))

    found = response.json()["predictions"]
    assert response.status_code == 200
    assert [(one["image"], one["file"]) for one in found] == list(enumerate(files))
    for one, prediction in zip(found, expected, strict=True):
        assert one["answers"] == close_to(dict(prediction.answers))
        assert set(one) == {"image", "file", "box", "score", "answers", "error"}
    assert response.json()["milliseconds"] > 0


def test_each_region_of_a_detector_has_its_box_and_the_number_of_its_image() -> None:
    with client_of(Halves()) as client:
        found = send(client, png(0), png(1, 30, 40), png(2)).json()["predictions"]
    assert [one["image"] for one in found] == [0, 0, 1, 2, 2]
    assert [one["box"] for one in found[:2]] == [[0, 0, 20, 30], [20, 0, 40, 30]]
    assert [one["score"] for one in found[:2]] == [0.9, 0.6]
    assert (found[2]["error"], found[2]["answers"]) == ("the detector found nothing", {})


def test_an_image_without_a_region_is_no_error_of_the_client() -> None:
    with client_of(Halves()) as client:
        assert send(client, png(1, 30, 40)).status_code == 200


def test_a_bad_file_among_good_ones_has_its_reason(client: TestClient) -> None:
    response = send(client, png(0), b"text", png(0), names=("a.png", "b.txt", "a.png"))
    found = response.json()["predictions"]
    assert response.status_code == 200
    assert [bool(one["answers"]) for one in found] == [True, False, True]
    assert "b.txt is not a readable image" in found[1]["error"]
    assert found[0]["answers"] == close_to(found[2]["answers"])


def test_requests_that_wait_together_get_their_own_answers() -> None:
    """They share forwards."""
    gate = Gate()
    alone = [predictor(Halves())(image(seed)) for seed in range(6)]

    async def all_at_once(client: httpx.AsyncClient) -> list[httpx.Response]:
        waiting = [asyncio.create_task(post(client, png(seed))) for seed in range(6)]
        await until_busy(client, 6)
        gate.opened.set()
        return await asyncio.gather(*waiting)

    for response, expected in zip(with_app(all_at_once, gate), alone, strict=True):
        found = [one["answers"] for one in response.json()["predictions"]]
        assert found == [close_to(dict(prediction.answers)) for prediction in expected]


# -------------------------------------------------------------------------------------- limits


def test_an_announced_body_above_the_limit_is_refused(client: TestClient) -> None:
    assert "larger than 50000 bytes" in reason(send(client, bytes(60_000)), 413)


def test_a_body_without_a_length_is_counted_while_it_arrives() -> None:
    """The rest is not read."""
    sent: list[int] = []

    async def endless() -> object:
        yield opening()
        for number in range(10_000):
            sent.append(number)
            yield bytes(1_000)

    async def stream(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/predict", content=endless(), headers=multipart())

    response = with_app(stream, limits=Limits(max_bytes=20_000))
    assert "larger than 20000 bytes" in reason(response, 413)
    assert len(sent) < 25


def test_a_body_that_does_not_arrive_in_time_is_refused() -> None:
    async def slow() -> object:
        yield opening()
        await asyncio.sleep(60)

    async def stream(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/predict", content=slow(), headers=multipart())

    assert "within 1 s" in reason(with_app(stream, limits=Limits(read_s=1)), 408)


def test_an_image_with_too_many_pixels_is_refused_by_its_header(client: TestClient) -> None:
    message = reason(send(client, png(0, 60, 40)), 422)
    assert message == "0.png has 60 x 40 pixels: expected at most 2000 in all"


def test_too_many_images_are_refused(client: TestClient) -> None:
    message = reason(send(client, *[png(0, 8, 8)] * 4), 400)
    assert message == "Too many files. Maximum number of files is 3."


def test_requests_above_the_limit_are_asked_to_try_again() -> None:
    """Meanwhile, the others and `/health` are answered."""
    gate = Gate()

    async def crowd(client: httpx.AsyncClient) -> tuple[httpx.Response, list[httpx.Response]]:
        waiting = [asyncio.create_task(post(client, png(0))) for _ in range(3)]
        await until_busy(client, 3)
        refused = await post(client, png(0))
        gate.opened.set()
        return refused, [*await asyncio.gather(*waiting), await post(client, png(0))]

    refused, answered = with_app(crowd, gate, Limits(max_requests=3))
    assert "busy with 3 requests" in reason(refused, 503)
    assert refused.headers["retry-after"] == "1"
    assert [response.status_code for response in answered] == [200] * 4


def test_a_limit_below_one_is_an_error() -> None:
    with pytest.raises(MtlError, match="max_images = 0: expected at least 1"):
        Limits(max_images=0)


def test_the_command_has_the_limits_of_the_class() -> None:
    options = inspect.signature(command).parameters
    limits = [limit for limit in fields(Limits) if limit.name != "read_s"]
    assert [options[limit.name].default for limit in limits] == [x.default for x in limits]


# -------------------------------------------------------------------------------------- errors


def test_a_request_of_another_type_is_refused(client: TestClient) -> None:
    response = client.post("/predict", content=png(), headers={"Content-Type": "image/png"})
    assert "the body is image/png: expected multipart/form-data" in reason(response, 415)
    assert "of no type" in reason(client.post("/predict"), 415)


@pytest.mark.parametrize(
    "body",
    [b"", b"noise", f"--{BOUNDARY}--\r\n".encode(), f"--{BOUNDARY}\r\nnonsense".encode()],
    ids=["empty", "noise", "no part", "half a header"],
)
def test_a_broken_body_is_refused(client: TestClient, body: bytes) -> None:
    assert reason(client.post("/predict", content=body, headers=multipart()), 400)


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "none"])
def test_a_body_of_an_odd_charset_is_answered(client: TestClient, charset: str) -> None:
    header = 'Content-Disposition: form-data; name="images"; filename="+2AA-\\ud800.png"'
    body = f"--{BOUNDARY}\r\n{header}\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"{multipart()['Content-Type']}; charset={charset}"}
    response = client.post("/predict", content=body, headers=headers)
    assert response.status_code in (400, 422)


def test_more_pixels_than_pillow_allows_are_refused() -> None:
    with pytest.raises(MtlError, match=r"max_pixels = 100000000: expected at most 89478485"):
        Limits(max_pixels=100_000_000)


def test_a_body_without_a_boundary_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data"}
    assert "boundary" in reason(client.post("/predict", content=b"x", headers=headers), 400)


def test_a_form_without_a_file_is_refused(client: TestClient) -> None:
    response = client.post("/predict", files=[("images", (None, "text"))])
    assert "the request has no file" in reason(response, 400)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0broken", png()[:60]])
def test_a_request_without_a_readable_image_is_refused(client: TestClient, data: bytes) -> None:
    assert "0.png is not a readable image" in reason(send(client, data), 422)


def test_unknown_addresses_and_methods_are_refused(client: TestClient) -> None:
    assert reason(client.get("/nothing"), 404)
    assert reason(client.get("/predict"), 405)


def test_a_bug_gives_a_sentence_and_the_service_lives_on() -> None:
    with client_of(Broken(), raise_server_exceptions=False) as client:
        message = reason(send(client, png()), 500)
        assert message == "the server failed (ZeroDivisionError): see its log"
        assert client.get("/health").json() == {"status": "ok", "requests": 0}


# --------------------------------------------------------------------------------------- others


def test_metadata_describe_the_answers(client: TestClient) -> None:
    found = client.get("/metadata").json()
    assert found["tasks"]["quarter"] == {
        "component": "classification",
        "form": "label",
        "names": ["a", "b", "c", "d"],
        "unit": "probability",
        "shape": "",
    }
    pose = found["tasks"]["pose"]
    assert (pose["names"], pose["unit"]) == (["yaw", "pitch", "roll"], "degrees")
    assert (found["preprocess"]["stored"], found["preprocess"]["crop"]) == (20, 0.8)
    assert found["limits"]["max_bytes"] == 50_000


def test_openapi_describes_the_request_and_every_refusal(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/predict"]["post"]
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert set(operation["responses"]) == {"200", "400", "408", "413", "415", "422", "503"}
    assert {"/predict", "/health", "/metadata"} == set(schema["paths"])


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert 'href="responsible-use"' in page.text


def test_the_page_on_responsible_use_is_that_of_the_docs(client: TestClient) -> None:
    text = client.get("/responsible-use").text
    assert "<h1>Responsible use</h1>" in text
    assert "It does not say what a person feels" in text


def test_health_says_when_the_service_has_stopped_and_its_thread_has_ended() -> None:
    before = set(threading.enumerate())
    app = create_app(predictor())
    with TestClient(app) as running:
        assert running.get("/health").status_code == 200
    assert TestClient(app).get("/health").json()["status"] == "stopped"
    started = set(threading.enumerate()) - before
    assert "predict" not in [thread.name for thread in started]


def test_loopback_addresses_are_known(subtests: pytest.Subtests) -> None:
    for host, loopback in [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("box", False),
    ]:
        with subtests.test(host=host, loopback=loopback):
            assert is_loopback(host) is loopback


# -------------------------------------------------------------------------------------- helpers


def with_app(work: Callable[[httpx.AsyncClient], Awaitable], detector=None, limits=None):
    """Run work(client) with the application in one event loop, so that requests overlap."""
    app = create_app(predictor(detector), {}, limits)

    async def run():
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            return await work(client)

    return asyncio.run(run())


async def post(client: httpx.AsyncClient, data: bytes) -> httpx.Response:
    return await client.post("/predict", files=[("images", ("a.png", data))])


async def until_busy(client: httpx.AsyncClient, n: int) -> None:
    """Wait until n requests are being served."""
    async with asyncio.timeout(30):
        while json.loads((await client.get("/health")).text)["requests"] < n:
            await asyncio.sleep(0.01)


def multipart() -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def opening() -> bytes:
    """The first bytes of a body: the header of a file."""
    header = 'Content-Disposition: form-data; name="images"; filename="a.png"'
    return f"--{BOUNDARY}\r\n{header}\r\n\r\n".encode()
