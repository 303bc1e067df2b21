"""What an exported file takes beside NumPy on one thread, and in the browser beside native.

    python benchmarks/on_device.py --export DIR

The export is one of `experiments/movielens-newton.toml`, made with `--static` for the part in the browser.
Chunks of each pair are measured in turn, on one thread, after a warm-up. What is shown is the median of the
chunks, the median of the ratios of neighbouring chunks, and, for machines with neighbours, the least.
"""

import argparse
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from fedrecon.export import Session

CHUNKS, CALLS = 41, 25
WARM_UP = 3  # seconds of calls before the first chunk that counts: the browser compiles while it runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", type=Path, required=True, help="an export of ratings")
    parser.add_argument("--items", type=int, default=80, help="ratings of the user")
    options = parser.parse_args()
    session = Session(options.export)
    given, size = arguments(session, options.items), options.items
    native: Callable[[], Any] = lambda: session.runtime.run(["top_item", "top_score"], given)  # noqa: E731
    numpy = by_hand(session, given, size)
    assert set(native()[0].tolist()) == set(numpy().tolist())
    print(f"load {os.getloadavg()[0]:.1f}")
    show("ONNX Runtime", "NumPy", in_turn(chunks_of(native), chunks_of(numpy)))
    if (options.export / "index.html").exists() and shutil.which("chromium"):
        with browser(options.export) as (page, loads):
            load = sorted(loads)
            print(f"first recommendation after navigation, cold cache: {np.median(load):.2f} s, ", end="")
            print(f"{load[0]:.2f} to {load[-1]:.2f} s")
            prepare(page, given)
            show("Chromium", "native", in_turn(lambda: float(page.evaluate("chunk()")), chunks_of(native)))


Pairs = list[tuple[float, float]]


def show(one: str, other: str, pairs: Pairs) -> None:
    """Prints what chunks of two ways took in turn."""
    a, b = np.array(pairs).T
    print(
        f"{one} {np.median(a):.3f} ms, {other} {np.median(b):.3f} ms: {np.median(a / b):.2f} times; "
        f"at least {a.min():.3f} and {b.min():.3f} ms: {a.min() / b.min():.2f} times"
    )


def arguments(session: Session, count: int) -> Mapping[str, np.ndarray]:
    """A user with so many ratings."""
    rng = np.random.default_rng(0)
    entries = {entry["name"]: entry for entry in session.description["inputs"]}
    items = rng.choice(entries["item"]["items"], count, replace=False).astype(np.int32)
    rating = rng.integers(1, 6, count).astype(np.float32)
    return {"item": items, "rating": rating, "mask": np.ones(count, bool), "exclude": items}


def by_hand(session: Session, given: Mapping[str, np.ndarray], size: int) -> Callable[[], Any]:
    """The same in NumPy: gather, solve, the highest scores. What is fixed comes from the file itself."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(session.folder / "model.onnx"))
    weights = {x.name: numpy_helper.to_array(x) for x in model.graph.initializer}
    tables = [x.astype(np.float32) for name, x in weights.items() if name in ("w0", "w1")]
    bias, factors = sorted(tables, key=lambda x: x.ndim)
    item, rating = given["item"], given["rating"]
    # Penalties and the mean come out of the file's own results: they are constants inside of it.
    penalties, mean = fitted(session, bias, factors)
    count = session.description["top_k"]

    def run() -> Any:
        rows = np.concatenate([np.ones((size, 1), np.float32), factors[item]], 1)
        user = np.linalg.solve(rows.T @ rows + penalties, rows.T @ (rating - bias[item] - mean))
        scores = factors @ user[1:] + bias + (user[0] + mean)
        scores[item] = -np.inf
        best = np.argpartition(-scores, count)[:count]
        return best[np.argsort(-scores[best])]

    return run


def fitted(session: Session, bias: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Penalties of `experiments/movielens-newton.toml` and the ratings' mean, of a user without ratings."""
    penalties = np.diag(np.r_[5.0, np.full(factors.shape[1], 20.0)]).astype(np.float32)
    none = session({})["prediction"]
    return penalties, np.float32(np.mean(none - bias))


def chunks_of(run: Callable[[], Any]) -> Callable[[], float]:
    """A function that makes a chunk of calls and returns the milliseconds of one."""

    def chunk() -> float:
        begun = time.perf_counter()
        for _ in range(CALLS):
            run()
        return (time.perf_counter() - begun) / CALLS * 1000

    return chunk


def in_turn(one: Callable[[], float], other: Callable[[], float]) -> Pairs:
    """Milliseconds a call of each, chunk by chunk in turn."""
    for chunk in (one, other):
        begun = time.perf_counter()
        while time.perf_counter() - begun < WARM_UP:
            chunk()
    return [(one(), other()) for _ in range(CHUNKS)]


@contextmanager
def browser(folder: Path) -> Iterator[tuple[Any, list[float]]]:
    """A page of an export in Chromium, and seconds from navigation to its first recommendation, ten times."""
    from playwright.sync_api import sync_playwright

    from fedrecon.export._web.server import server_of

    files = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    with server_of(folder, files) as server, sync_playwright() as playwright:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        loads = []
        for _ in range(10):
            context = chromium.new_context()
            page = context.new_page()
            begun = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("#top-0 li")
            loads.append(time.perf_counter() - begun)
            context.close()
        page = chromium.new_page()
        page.route("**/page.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
        page.goto(url)
        yield page, loads
        chromium.close()
        server.shutdown()
        thread.join()


def prepare(page: Any, given: Mapping[str, np.ndarray]) -> None:
    """Opens the model in the page, which gets a function `chunk()` like that of `chunks_of`."""
    numbers = {name: x.astype(float).tolist() for name, x in given.items() if name != "mask"}
    script = """async ([given, size, calls]) => {
        const {Engine, start} = await import("./engine.js");
        await start();
        const engine = await (await Engine.read("")).open();
        await engine.optimise();
        globalThis.chunk = async () => {
            const begun = performance.now();
            for (let i = 0; i < calls; i++) await engine.run(given, size, ["top_item", "top_score"]);
            return (performance.now() - begun) / calls;
        };
    }"""
    page.evaluate(script, [numbers, len(given["item"]), CALLS])


if __name__ == "__main__":
    main()
