"""Proxies before a SuperLink, as the generated files configure them, and requests to them."""

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 60.0
CONTROL, FLEET = "/v1/control/start-run", "/v1/fleet/get-run"
# Other ways to write the path of the operator's interface, some of which a careless proxy would pass on.
DISGUISES = [
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "//v1/control/start-run",
    "/v1/fleet/get-run/../../control/start-run",
    "/v1/runtime/pull-task-input",
    "/",
]


def post(port: int, path: str, authority: Path | None = None, method: str = "POST") -> int:
    """The status that a server answers to an empty message."""
    context = ssl.create_default_context(cafile=authority)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
    try:
        connection.request(method, path, b"", {"Content-Type": "application/octet-stream"})
        return connection.getresponse().status
    finally:
        connection.close()


@contextmanager
def proxy(kind: str, folder: Path, text: str, listen: int) -> Iterator[None]:
    """Runs nginx or Caddy with a configuration until the block ends; skips the test where it is missing."""
    program = shutil.which(kind, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))
    if program is None:
        pytest.skip(f"needs {kind}: apt-get install {kind}")
    folder.mkdir()
    command = {"nginx": _nginx, "caddy": _caddy}[kind](program, folder, text)
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + PATIENCE
        while not _is_open(listen):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def _nginx(program: str, folder: Path, text: str) -> list[str]:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f'  {kind}_temp_path "{folder / kind}";\n' for kind in kinds) + "  access_log off;\n"
    (folder / "nginx.conf").write_text(text.replace("http {\n", "http {\n" + places))
    settings = f'daemon off; pid "{folder / "pid"}"; error_log stderr;'
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", settings]


def _caddy(program: str, folder: Path, text: str) -> list[str]:
    (folder / "Caddyfile").write_text(text)
    return [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
