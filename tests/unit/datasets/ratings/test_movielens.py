"""Fetching an archive: once, checked, or with advice what to do. No test leaves this machine."""

import hashlib
import http.server
import re
import socket
import threading
import zipfile
from dataclasses import replace

import pytest

from fedrecon.datasets.ratings._dataset import load
from fedrecon.datasets.ratings._movielens import MOVIELENS_1M, Archive, download
from fedrecon.errors import DataError

RATINGS = "".join(
    f"{user}::{item}::{item % 5 + 1}::{item}\n" for user in range(1, 11) for item in range(1, 21)
)


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An archive served on this machine, and the list of requests."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny.zip", "w") as archive:
        archive.writestr("tiny/ratings.dat", RATINGS)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, format, *args):
            requests.append(args[0])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield (
            Archive(
                name="Tiny",
                url=f"http://127.0.0.1:{running.server_port}/tiny.zip",
                md5=md5((folder / "tiny.zip").read_bytes()),
                member="tiny/ratings.dat",
                member_md5=md5(RATINGS.encode()),
            ),
            requests,
        )
        running.shutdown()
        thread.join()


def advice(archive):
    return re.escape(
        f"Instead, fetch {archive.url} (md5 {archive.md5}) by other means and give its path, "
        "packed as it is: --data PATH (in Python, path=PATH)"
    )


def test_fetched_once(server, tmp_path):
    archive, requests = server
    first = download(archive, tmp_path / "cache")
    assert first == tmp_path / "cache" / "tiny.zip"
    assert download(archive, tmp_path / "cache") == first
    assert len(requests) == 1
    sets = load(first, seed=0, cache=tmp_path / "cache")
    assert sum(len(x) for x in sets.values()) == 10


def test_a_damaged_copy_is_fetched_again(server, tmp_path):
    archive, requests = server
    path = download(archive, tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    assert md5(download(archive, tmp_path).read_bytes()) == archive.md5
    assert len(requests) == 2


@pytest.mark.parametrize("wrong", ["md5", "member_md5"])
def test_another_content(server, tmp_path, wrong):
    archive = replace(server[0], **{wrong: "0" * 32})
    with pytest.raises(DataError, match=r"^Tiny could not be fetched into .*(?i:md5).*" + advice(archive)):
        download(archive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_member_that_is_not_there(server, tmp_path):
    archive = replace(server[0], member="other/ratings.dat")
    with pytest.raises(DataError, match="other/ratings.dat.*" + advice(archive)):
        download(archive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_address_that_is_gone(server, tmp_path):
    archive = replace(server[0], url=server[0].url.replace("tiny", "gone"))
    with pytest.raises(DataError, match="404.*" + advice(archive)):
        download(archive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as held:  # bound but not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        archive = replace(MOVIELENS_1M, url=f"http://127.0.0.1:{held.getsockname()[1]}/ml-1m.zip")
        with pytest.raises(
            DataError, match=r"^MovieLens 1M could not be fetched into .*refused.*" + advice(archive)
        ):
            download(archive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"could not be fetched into {tmp_path}/file: .*" + advice(server[0])):
        download(server[0], tmp_path / "file")


def test_the_known_checksum_is_that_of_the_real_file(shared_data):
    assert md5((shared_data("ml-1m") / "ratings.dat").read_bytes()) == MOVIELENS_1M.member_md5
