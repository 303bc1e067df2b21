"""A web server for this machine alone, which serves the files of one page and nothing else."""

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

POLICY = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
_LOCAL = "127.0.0.1"


def server_of(folder: Path, files: list[str], port: int = 0) -> ThreadingHTTPServer:
    """A server on the loopback interface.

    It looks the requested path up in a table of the given files, so that no path of a request reaches the
    file system. A request for another host name is refused: a foreign page whose name server resolves its
    name to this machine (DNS rebinding) sends such requests.

    Args:
        folder: The folder that holds the files.
        files: Paths of the files below the folder.
        port: The port to listen on; 0 for a free one, the default.
    """
    paths = {f"/{name}": folder / name for name in files}
    paths["/"] = folder / "index.html"
    return ThreadingHTTPServer((_LOCAL, port), _handler(paths))


def _handler(paths: Mapping[str, Path]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "fedrecon", ""

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            port = self.connection.getsockname()[1]
            hosts = {f"{name}:{port}" for name in (_LOCAL, "localhost")}
            if self.headers.get("Host", "").lower() not in hosts:
                return self._refuse(421, "This server answers for this machine alone.\n")
            path = paths.get(self.path.split("?")[0])
            if path is None:
                return self._refuse(404, "There is no such file.\n")
            content = path.read_bytes()
            self._head(200, _TYPES.get(path.suffix, "application/octet-stream"), len(content))
            if body:
                self.wfile.write(content)

        def _refuse(self, status: int, text: str) -> None:
            content = text.encode()
            self._head(status, "text/plain; charset=utf-8", len(content))
            if self.command != "HEAD":
                self.wfile.write(content)

        def _head(self, status: int, kind: str, size: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(size))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Writes no log, since requests show what a user does."""

    return Handler
