"""The page's files, titles, runtime and server."""

import http.client
import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from fedrecon.datasets.text._tokenizers import pieces, whitespace
from fedrecon.errors import DataError
from fedrecon.export._graph.program import ExportError
from fedrecon.export._web import runtime
from fedrecon.export._web.page import PAGE_FILES, invented_titles, read_titles
from fedrecon.export._web.server import POLICY, server_of

PAGE = Path(runtime.__file__).parent / "page_files"


def test_the_page_is_small_and_loads_nothing_from_elsewhere():
    assert {p.name for p in PAGE.iterdir()} == set(PAGE_FILES)
    scripts = [PAGE / name for name in PAGE_FILES if name.endswith(".js")]
    assert sum(p.stat().st_size for p in scripts) < 100_000
    for name in PAGE_FILES:
        text = (PAGE / name).read_text(encoding="utf-8")
        assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        assert not any(word in text for word in ("innerHTML", "eval(", "document.write", "XMLHttpRequest"))
    assert f'content="{POLICY}"' in (PAGE / "index.html").read_text()


SENTENCES = [
    "हिन्दी में लिखना। தமிழ் எழுத்து ภาษาไทย بِكُم",
    "İstanbul'da IŞIK, cafe\u0301 l’été rock'n'roll ''quoted'' a_b",
    "soft\u00adhyphen zero\u200dwidth a\u200bb 👩‍👩‍👧 ❤️! 1,234.5 ½ Ⅷ",
    "white\u00a0space\u2003of\u3000kinds \x1c\x1d\x85 and\ufeffnone \u0301alone ـ\u0600",
]


def test_the_page_parts_words_as_training_did(tmp_path):
    """It is run by Node.js, since the scripts are modules that need no browser until they show something."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js")
    shutil.copytree(PAGE, tmp_path / "page")
    (tmp_path / "page" / "package.json").write_text('{"type": "module"}')
    code = f"""
        import {{tokensOf}} from {json.dumps(str(tmp_path / "page" / "words.js"))};
        const parted = {json.dumps(SENTENCES)}.map((x) => [tokensOf(x, "pieces"), tokensOf(x, "whitespace")]);
        console.log(JSON.stringify(parted));
    """
    command = [node, "--no-warnings", "--input-type=module", "--eval", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == [[pieces(text), whitespace(text)] for text in SENTENCES]


def test_titles(tmp_path):
    old, new = tmp_path / "movies.dat", tmp_path / "movies.csv"
    old.write_bytes("1::Amélie (2001)::Comedy\n20::Heat::Action\n".encode("latin-1"))
    new.write_text('movieId,title,genres\n1,"Amélie, 2001",Comedy\n', encoding="utf-8")
    assert read_titles(old) == {"1": "Amélie (2001)", "20": "Heat"}
    assert read_titles(new)["1"] == "Amélie, 2001"
    (tmp_path / "bad.csv").write_text("1,One\n2\n")
    with pytest.raises(DataError, match=r"bad\.csv, line 2: must hold an id and a title, got '2'"):
        read_titles(tmp_path / "bad.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_titles(tmp_path / "none")
    titles = invented_titles(range(1000))
    assert len(set(titles.values())) == 1000 and titles["0"] == "The Quiet Harbour"


def test_another_runtime_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"--runtime must name a folder with ort\.wasm\.bundle"):
        runtime.runtime_files(str(tmp_path))
    (tmp_path / "dist").mkdir()
    for name in runtime.FILES:
        (tmp_path / "dist" / name).write_text("something else")
    with pytest.raises(ExportError, match=r"must be that of onnxruntime-web 1\.30\.0, it is another file"):
        runtime.runtime_files(str(tmp_path))


def test_without_npm_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "cache_folder", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match="install npm, or give the folder of the package's files"):
        runtime.runtime_files()


@pytest.fixture
def server(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<p>page</p>")
    (site / "page.json").write_text(json.dumps({"kind": "ratings"}))
    (site / "hidden.txt").write_text("not named")
    (tmp_path / "secret.txt").write_text("secret")
    with server_of(site, ["index.html", "page.json"]) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made.server_address[1]
        made.shutdown()
        thread.join()


def asked(port: int, path: str, host: str | None = None, method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    return connection.getresponse()


def test_the_server_serves_its_own_files(server):
    answer = asked(server, "/")
    assert answer.status == 200 and answer.read() == b"<p>page</p>"
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert asked(server, "/page.json?x=1", f"localhost:{server}").status == 200
    assert asked(server, "/page.json", method="HEAD").read() == b""


@pytest.mark.parametrize(
    "path",
    [
        "/hidden.txt",
        "/../secret.txt",
        "/..%2fsecret.txt",
        "//secret.txt",
        "/%2e%2e/secret.txt",
        "/index.html/",
        "/.",
    ],
)
def test_the_server_serves_nothing_else(server, path):
    answer = asked(server, path)
    assert answer.status == 404 and b"secret" not in answer.read()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example:80", ""]
)
def test_foreign_hosts_are_refused(server, host):
    assert asked(server, "/", host or " ").status == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_written(server, method):
    assert asked(server, "/", method=method).status == 501


def test_the_server_is_on_this_machine_alone(tmp_path):
    with server_of(tmp_path, []) as made:
        assert made.server_address[0] == "127.0.0.1"
