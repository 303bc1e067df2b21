"""The page in a browser: what it recommends is what Python recommends, and nothing leaves it."""

import base64
import functools
import http.server
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests import browser

from fedrecon.experiment.cli.main import main
from fedrecon.experiment.cli.runs import saved_config
from fedrecon.experiment.serving.demo import write_demo
from fedrecon.experiment.serving.export import Wanted
from fedrecon.export._session import Session
from fedrecon.export._web.server import server_of

pytest.importorskip("onnxruntime", reason="needs the extra export")

SMALL = ["training.rounds=60", "training.clients_per_round=50", "data.clients=300", "data.items=400"]
SMALL += ["algorithm.reconstruct.kind=newton", "model.user_penalty=1.0", "model.item_bias=true"]
WORDS = ["training.rounds=1", "training.clients_per_round=2", "training.clients_per_block=2", "data.words=60"]
WORDS += ["data.buckets=16", "data.generated.clients=20", "data.generated.sentences=12", "data.length=8"]
WORDS += ["model.network.embedding=8", "model.network.hidden=12", "algorithm.reconstruct.epochs=1"]
READY = "html[data-ready]"


def settings(names: list[str]) -> list[str]:
    return [word for name in names for word in ("--set", name)]


def site(root: Path, name: str, changes: list[str], *experiment: str) -> Path:
    run, out = root / name, root / f"{name}-site"
    assert main(["run", *experiment, "--out", str(run), *settings(changes)]) == 0
    arguments = ["export", str(run), "--out", str(out), "--static", "--runtime", browser.runtime()]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    browser.browser_path()
    return site(tmp_path_factory.mktemp("films"), "films", SMALL)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = browser.browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


def served(folder: Path, plain: bool) -> Any:
    """The command's server, or any static one."""
    if plain:
        handler = functools.partial(Quiet, directory=str(folder))
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    return server_of(folder, [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()])


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        pass


class Open:
    """A page in the browser, with the requests that it makes."""

    def __init__(self, chromium: Any, folder: Path, plain: bool = False, **context: Any):
        self.server = served(folder, plain)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.context = chromium.new_context(**context)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.page.goto(self.url)
        self.page.wait_for_selector(READY)

    def __enter__(self) -> "Open":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def find(self, title: str) -> None:
        self.page.fill("#search", title)

    def rate(self, identity: str, title: str, stars: int) -> None:
        self.find(title)
        row = self.page.locator(f'#found li[data-id="{identity}"] input')
        row.nth(stars - 1).check(force=True)

    def recommended(self) -> list[str]:
        return [row.get_attribute("data-id") for row in self.page.locator("#top-0 li").all()]

    def settled(self, count: int) -> None:
        words = f"From {count} " if count else "Without ratings"
        self.page.wait_for_function(
            "words => document.getElementById('status').textContent.startsWith(words)", arg=words
        )


def titles(folder: Path) -> dict[str, str]:
    content: dict[str, str] = json.loads((folder / "page.json").read_text())["titles"]
    return content


def test_a_model_that_names_no_range_of_ratings_takes_one_to_five_stars(chromium, films, tmp_path):
    out = tmp_path / "site"
    shutil.copytree(films, out)
    description = json.loads((out / "model.json").read_text())
    (rating,) = [entry for entry in description["inputs"] if entry["name"] == "rating"]
    del rating["range"]
    (out / "model.json").write_text(json.dumps(description))
    with Open(chromium, out) as opened:
        identity = str(Session(films).vocabularies["item"][3])
        opened.rate(identity, titles(out)[identity], 4)
        opened.settled(1)
        values = opened.page.locator(f'#own li[data-id="{identity}"] input').all()
        assert [value.get_attribute("value") for value in values] == ["1", "2", "3", "4", "5"]
        assert opened.errors == [] and len(opened.recommended()) == 20


@pytest.mark.parametrize("plain", [False, True], ids=["the command's server", "any static server"])
def test_rating_by_mouse_and_by_keyboard(chromium, films, plain):
    session, names = Session(films), titles(films)
    ids = [str(x) for x in session.vocabularies["item"]]
    chosen = {ids[3]: 5, ids[40]: 1, ids[7]: 4}
    with Open(chromium, films, plain) as opened:
        page = opened.page
        loaded, before = len(opened.requests), opened.recommended()
        assert len(before) == 20
        first, second, third = chosen
        opened.find(names[first])
        page.locator(f'#found li[data-id="{first}"] input').nth(4).check(force=True)
        opened.settled(1)
        for count, identity in ((2, second), (3, third)):  # by the keyboard alone from the search box on
            opened.find(names[identity])
            page.focus("#search")
            page.keyboard.press("Tab")
            page.keyboard.press("Space")
            for _ in range(chosen[identity] - 1):
                page.keyboard.press("ArrowRight")
            opened.settled(count)
        page.wait_for_timeout(300)
        low, high = next(x["range"] for x in session.description["inputs"] if x["name"] == "rating")
        stars = np.array([low + (value - 1) * (high - low) / 4 for value in chosen.values()], np.float32)
        rows = np.array([ids.index(identity) for identity in chosen])
        wanted, _ = session.top({"item": rows, "rating": stars})
        assert opened.recommended() == [ids[row] for row in wanted] != before
        page.wait_for_selector("html[data-optimised]")  # the session that the runtime has optimised
        opened.rate(first, names[first], 1)
        opened.rate(first, names[first], 5)
        opened.settled(3)
        page.wait_for_timeout(300)
        assert opened.recommended() == [ids[row] for row in wanted]
        assert page.evaluate("fetch('page.json').then(() => 'sent', () => 'refused')") == "refused"
        page.click("#try")
        page.wait_for_function("() => document.getElementById('outcome').textContent.includes('refused')")
        assert len(opened.requests) == loaded and opened.errors == []
        page.reload()
        page.wait_for_selector(READY)
        assert opened.recommended() == [ids[row] for row in wanted]
        page.click("#forget")
        page.wait_for_function("() => document.getElementById('status').textContent.startsWith('Without')")
        assert page.evaluate("localStorage.length") == 0 and opened.recommended() == before


def test_nothing_serious_for_people_with_disabilities(chromium, films):
    source = browser.axe()
    for scheme in ("light", "dark"):
        with Open(chromium, films, color_scheme=scheme, viewport={"width": 390, "height": 844}) as opened:
            opened.find("The")
            opened.page.locator("#found input").nth(2).check(force=True)
            opened.settled(1)
            opened.page.evaluate(source)
            found = opened.page.evaluate("axe.run().then(result => result.violations)")
            serious = [x["id"] for x in found if x["impact"] in ("serious", "critical")]
            assert serious == [], (scheme, [node["html"] for x in found for node in x["nodes"]])
            wide = opened.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 390


def test_a_changed_model_is_refused_and_nothing_is_lost(chromium, films, tmp_path):
    copy = shutil.copytree(films, tmp_path / "copy")
    model = (copy / "model.onnx").read_bytes()
    with Open(chromium, copy) as opened:
        opened.find("The")
        opened.page.locator("#found input").nth(1).check(force=True)
        opened.settled(1)
        for broken, message in ((model[:-1], "it is cut off"), (model[:-1] + b"x", "it was changed")):
            (copy / "model.onnx").write_bytes(broken)
            opened.page.reload()
            opened.page.wait_for_selector("#problem:not([hidden])")
            assert message in opened.page.inner_text("#problem")
        (copy / "model.onnx").write_bytes(model)
        description = (copy / "model.json").read_text()
        (copy / "model.json").write_text(description.replace('"format": 1', '"format": 2'))
        opened.page.reload()
        opened.page.wait_for_selector("#problem:not([hidden])")
        assert "must be of format 1, is of 2" in opened.page.inner_text("#problem")
        (copy / "model.json").write_text(description)
        opened.page.reload()
        opened.page.wait_for_selector(READY)
        opened.settled(1)


def test_a_stored_rating_that_is_not_on_the_scale_is_named_and_kept(chromium, films):
    (identity, title), *_ = titles(films).items()
    stored = {"ratings": {identity: 9}, "text": ""}
    with Open(chromium, films) as opened:
        page = opened.page
        page.evaluate("user => localStorage.setItem('fedrecon', JSON.stringify(user))", stored)
        page.reload()
        page.wait_for_selector(READY)
        assert f"Your rating of {title}, 9, is outside of the model's scale" in page.inner_text("#problem")
        assert page.inner_text("#status") == "" and page.locator("#own li").count() == 1
        page.locator("#own input").nth(4).check(force=True)
        opened.settled(1)
        assert page.locator("#problem").is_hidden() and len(opened.recommended()) == 20


def test_more_ratings_than_the_model_takes(chromium, films):
    most = Session(films).support_max
    names = list(titles(films))
    stored = {"ratings": dict.fromkeys(names[:most], 3) | {"gone": 4}, "text": ""}
    with Open(chromium, films) as opened:
        opened.page.evaluate("user => localStorage.setItem('fedrecon', JSON.stringify(user))", stored)
        opened.page.reload()
        opened.page.wait_for_selector(READY)
        assert "unknown to this model" in opened.page.inner_text("#own")  # of an item that was removed
        opened.find(titles(films)[names[most]])
        opened.page.locator(f'#found li[data-id="{names[most]}"] input').nth(0).click(force=True)
        opened.page.wait_for_selector("#problem:not([hidden])")
        assert f"At most {most} ratings" in opened.page.inner_text("#problem")
        assert len(opened.recommended()) == 20


def test_two_runs_side_by_side(chromium, films, tmp_path):
    first, second = films.parent / "films", tmp_path / "films"
    # The second run has other parameters, and knows fewer items.
    assert (
        main(["run", "--out", str(second), *settings([*SMALL, "data.items=390", "training.rounds=5"])]) == 0
    )
    screen = Console(file=io.StringIO())
    wanted = Wanted(precision="float16", runtime=browser.runtime())
    runs = [(run, saved_config(str(run))) for run in (first, second)]
    site = tmp_path / "site"
    site.mkdir()
    files = write_demo(runs, site, screen, wanted)
    assert set(files) == {str(p.relative_to(site)) for p in site.rglob("*") if p.is_file()}
    sessions = [Session(site / name) for name in ("model0", "model1")]
    with Open(chromium, site) as opened:
        page, names = opened.page, titles(site)
        ids = [str(x) for x in sessions[0].vocabularies["item"]]
        alone = [x for x in ids if x not in {str(x) for x in sessions[1].vocabularies["item"]}]
        assert len(alone) == 10
        rated = {ids[3]: 5, ids[9]: 1, alone[0]: 4}  # the second model does not know the last one
        for count, (identity, stars) in enumerate(rated.items(), 1):
            opened.rate(identity, names[identity], stars)
            opened.settled(count)
        page.wait_for_timeout(300)
        wanted_lists = []
        for session in sessions:
            rows = {str(x): row for row, x in enumerate(session.vocabularies["item"])}
            low, high = next(x["range"] for x in session.description["inputs"] if x["name"] == "rating")
            own = {identity: stars for identity, stars in rated.items() if identity in rows}
            rating = [low + (stars - 1) * (high - low) / 4 for stars in own.values()]
            top, _ = session.top({"item": np.array([rows[x] for x in own]), "rating": np.float32(rating)})
            wanted_lists.append([str(session.vocabularies["item"][row]) for row in top])
        shown = [[row.get_attribute("data-id") for row in page.locator(f"#top-{i} li").all()] for i in (0, 1)]
        assert shown == wanted_lists and shown[0] != shown[1]
        common = set(shown[0]) & set(shown[1])
        marked = {row.get_attribute("data-id") for row in page.locator("li.alone").all()}
        assert marked == set(shown[0]) ^ set(shown[1])
        assert page.inner_text("#agreement") == f"{len(common)} of 20 items are on all lists."
        # The folders have one name, so that their paths tell the runs apart.
        assert f"Recommended by {second}" in page.inner_text("#content")
        assert [part["model"] for part in kept(page)] == [session.digest for session in sessions]


def kept(page: Any) -> list[dict[str, Any]]:
    """The user's parts of models in the browser's storage, with their vectors as arrays."""
    parts = json.loads(page.evaluate("localStorage.getItem('fedrecon')"))["parts"]
    for part in parts:
        for name in ("start", "local"):
            part[name] = np.frombuffer(base64.b64decode(part[name]), np.float32)
    return parts


def test_a_part_is_kept_for_its_model_and_made_anew_for_another(chromium, tmp_path):
    """FedAlt goes on from what the user kept, so that a result shows from where it was computed."""
    browser.browser_path()
    changes = [*SMALL, "training.rounds=2", "algorithm.name=fedalt", "algorithm.reconstruct.kind=solver"]
    folder = site(tmp_path, "first", changes)
    other = tmp_path / "other"
    seed = ["--seed", "7", "--static", "--runtime", browser.runtime()]
    assert main(["export", str(tmp_path / "first"), "--out", str(other), *seed]) == 0
    session, another = Session(folder), Session(other)
    ids = [str(x) for x in session.vocabularies["item"]]
    high = next(x["range"][1] for x in session.description["inputs"] if x["name"] == "rating")

    def support(*rows: int) -> dict[str, Any]:
        return {"item": sorted(rows, key=lambda row: int(ids[row])), "rating": [high] * len(rows)}

    def visit(page: Any, count: int, begins: str) -> dict[str, Any]:
        page.reload()
        page.wait_for_selector(READY)
        page.wait_for_function(
            "words => document.getElementById('status').textContent.startsWith(words)", arg=begins
        )
        (part,) = kept(page)
        assert len(part["examples"]) == count
        return part

    with Open(chromium, folder) as opened:
        page = opened.page
        names = titles(folder)
        assert page.evaluate("localStorage.length") == 0  # nobody, whose part need not be kept
        opened.rate(ids[3], names[ids[3]], 5)
        opened.settled(1)
        first = session(support(3))["local"]
        for part in (kept(page)[0], visit(page, 1, "From 1")):  # the second time not a step further
            assert part["model"] == session.digest and len(part["start"]) == 0
            np.testing.assert_allclose(part["local"], first, atol=1e-5)
        assert f"{len(first)} numbers of your part of model {session.digest[:8]}" in page.inner_text("#facts")
        opened.rate(ids[7], names[ids[7]], 5)
        opened.settled(2)
        wanted = session(support(3, 7), start=first)["local"]
        assert np.max(np.abs(session(support(3, 7))["local"] - wanted)) > 1e-3  # it goes on from the first
        for part in (kept(page)[0], visit(page, 2, "From 2")):
            np.testing.assert_allclose(part["start"], first, atol=1e-5)
            np.testing.assert_allclose(part["local"], wanted, atol=1e-5)
        page.locator(f'#own li[data-id="{ids[3]}"] button').click()  # what was learnt from it goes, too
        opened.settled(1)
        (part,) = kept(page)
        assert len(part["start"]) == 0
        np.testing.assert_allclose(part["local"], session(support(7))["local"], atol=1e-5)

        for path in folder.iterdir():  # another model at the same address
            if path.suffix in (".json", ".onnx", ".npz"):
                shutil.copy(other / path.name, path)
        part = visit(page, 1, "From 1")
        assert "made anew" in page.inner_text("#status")
        assert part["model"] == another.digest != session.digest and len(part["start"]) == 0
        np.testing.assert_allclose(part["local"], another(support(7))["local"], atol=1e-5)

        for nonsense in ("[]", '{"ratings": null, "parts": 3}', '{"parts": [null, {"model": 1}]}', "no JSON"):
            page.evaluate("text => localStorage.setItem('fedrecon', text)", nonsense)
            page.reload()
            page.wait_for_selector(READY)
            assert page.inner_text("#status").startswith("Without") and opened.errors == []


def test_words(chromium, tmp_path, repository):
    browser.browser_path()
    folder = site(tmp_path, "words", WORDS, str(repository / "experiments" / "next_word.toml"))
    with Open(chromium, folder) as opened:
        page, loaded = opened.page, len(opened.requests)
        page.wait_for_selector("#general button")
        before = page.inner_text("#personal")
        page.fill("#history", "wug wug wug blick\nwug wug blick blick\n" * 4)
        page.click("#learn")
        page.wait_for_selector("#status:has-text('from 8 sentences')")
        page.fill("#prompt", "wug wug")
        page.wait_for_timeout(800)
        assert page.inner_text("#personal") != before
        assert page.locator("#personal button:enabled").count() >= 1
        page.locator("#personal button:enabled").first.click()
        assert len(page.input_value("#prompt").split()) == 3
        assert len(opened.requests) == loaded and opened.errors == []
        page.reload()
        page.wait_for_selector(READY)
        assert page.input_value("#history").startswith("wug wug wug blick")
        (part,) = kept(page)
        session = Session(folder)
        assert part["model"] == session.digest and len(part["examples"]) == 8
        assert part["local"].size == session.description["outputs"][-1]["shape"][0]


@pytest.mark.slow  # what a client remembers takes half a minute to compile
def test_own_words(chromium, tmp_path, repository):
    browser.browser_path()
    folder = site(tmp_path, "own", WORDS, str(repository / "experiments" / "next_word-personal.toml"))
    with Open(chromium, folder) as opened:
        page = opened.page
        page.wait_for_selector("#general button")
        page.fill("#history", "wug blick\nwug blick\nwug dax\n")
        page.click("#learn")
        page.wait_for_selector("#status:has-text('from 3 sentences')")
        page.fill("#prompt", "wug")
        page.wait_for_selector("#personal button:has-text('blick')")
        named = [x.split()[0] for x in page.locator("#personal button").all_inner_texts()]
        assert named[:2] == ["blick", "dax"]  # as often as they followed
        assert "blick" not in page.inner_text("#general") and opened.errors == []


@pytest.mark.skipif("FEDRECON_PICTURES" not in os.environ, reason="makes the documentation's pictures")
def test_pictures(chromium, films):
    folder = Path(os.environ["FEDRECON_PICTURES"])
    for name, size in (("phone", (390, 844)), ("desktop", (1100, 760))):
        for scheme in ("light", "dark"):
            viewport = {"width": size[0], "height": size[1]}
            with Open(chromium, films, color_scheme=scheme, viewport=viewport) as opened:
                names = titles(films)
                for count, (identity, stars) in enumerate(zip(list(names)[:4], (5, 2, 4, 1), strict=True), 1):
                    opened.rate(identity, names[identity], stars)
                    opened.settled(count)
                opened.find("winter")
                opened.page.evaluate("scrollTo(0, 0)")
                opened.page.screenshot(path=str(folder / f"on_device_{name}_{scheme}.png"))
