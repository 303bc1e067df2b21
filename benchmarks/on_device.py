"""What an exported file takes beside NumPy on one thread, and in the browser beside native.

    python benchmarks/on_device.py --export DIR

The export is one of `experiments/movielens-newton.toml`, made with `--static` for the part in the browser.
Each pair is measured in turn, on one thread; what is shown is the median of chunks and, for machines with
neighbours, the least.
"""

import argparse
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from fedrecon.export import Session

CHUNKS, CALLS = 41, 25


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
    (a, least_a), (b, least_b) = in_turn(native, numpy)
    print(f"ONNX Runtime {a:.3f} ms, NumPy {b:.3f} ms: {a / b:.2f} times; ", end="")
    print(f"at least {least_a:.3f} and {least_b:.3f} ms: {least_a / least_b:.2f} times")
    if (options.export / "index.html").exists() and shutil.which("chromium"):
        c, least, loaded = in_browser(options.export, given)
        print(f"Chromium {c:.3f} ms, native {a:.3f} ms: {c / a:.2f} times; ", end="")
        print(f"at least {least:.3f} and {least_a:.3f} ms: {least / least_a:.2f} times")
        print(f"first recommendation after navigation, cold cache: {loaded:.2f} s")


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


def in_turn(one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """Milliseconds a call of each: the median of chunks, and the least."""
    times: tuple[list[float], list[float]] = [], []
    for chunk in range(CHUNKS + 2):
        for run, found in zip((one, other), times, strict=True):
            begun = time.perf_counter()
            for _ in range(CALLS):
                run()
            if chunk >= 2:
                found.append((time.perf_counter() - begun) / CALLS * 1000)
    return tuple((float(np.median(x)), float(np.min(x))) for x in times)


def in_browser(folder: Path, given: Mapping[str, np.ndarray]) -> tuple[float, float, float]:
    """Milliseconds a run in Chromium, the least, and seconds from navigation to the first recommendation."""
    from playwright.sync_api import sync_playwright

    from fedrecon.export._web.server import server_of

    files = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    numbers = {name: x.astype(float).tolist() for name, x in given.items() if name != "mask"}
    script = """async ([given, size, count]) => {
        const {Engine, start} = await import("./engine.js");
        await start();
        const engine = await (await Engine.read("")).open();
        await engine.optimise();
        const times = [];
        for (let chunk = 0; chunk < count + 5; chunk++) {  // the browser's clock is coarse
            const begun = performance.now();
            for (let i = 0; i < 25; i++) await engine.run(given, size, ["top_item", "top_score"]);
            times.push((performance.now() - begun) / 25);
        }
        return times.slice(5);
    }"""
    with server_of(folder, [*files, "bare.html"]) as server, sync_playwright() as playwright:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        loads = []
        for _ in range(10):
            context = browser.new_context()
            page = context.new_page()
            begun = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.wait_for_selector("#top-0 li")
            loads.append(time.perf_counter() - begun)
            context.close()
        page = browser.new_page()
        page.route("**/page.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
        page.goto(url)
        times = page.evaluate(script, [numbers, len(given["item"]), CHUNKS])
        browser.close()
        server.shutdown()
        thread.join()
    return float(np.median(times)), float(np.min(times)), float(np.median(loads))


if __name__ == "__main__":
    main()
