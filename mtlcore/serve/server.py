"""Run the application: bind the address first, stop gracefully."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import closing, suppress

import uvicorn
from fastapi import FastAPI

from ..errors import MtlError
from ..signals import handling

GRACE_S = 30  # for the requests in flight when the server is stopped


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve until Ctrl-C or SIGTERM. Requests in flight are then finished, for up to 30 s.

    port: 0 lets the system choose a free one.
    ready: called with the URL when clients can connect.

    Raises MtlError if the address can't be used, and KeyboardInterrupt after Ctrl-C.
    """
    with closing(_listening(host, port)) as listener:
        ready(_url(host, listener.getsockname()[1]))
        # It warns of every broken body, which the client hears about.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        # uvicorn raises the signal that stopped it again, which would end the process as killed.
        with handling([signal.SIGTERM], lambda *_: None):
            server.run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise MtlError(
            f"can't serve at {host} port {port}: {error}. Choose another --port (0: any free one) "
            "or --host"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
