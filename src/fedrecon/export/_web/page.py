"""The page that shows an export: files for any static web server, or for the one of `fedrecon demo`."""

import csv
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from fedrecon._files import write_atomically
from fedrecon.errors import DataError
from fedrecon.export._web.runtime import runtime_files

PAGE_FILES = (
    "index.html",
    "page.css",
    "icon.svg",
    "page.js",
    "engine.js",
    "elements.js",
    "store.js",
    "part.js",
    "ratings.js",
    "words.js",
    "blake2b.js",
)
_QUALITIES = (
    "Quiet",
    "Crimson",
    "Distant",
    "Broken",
    "Golden",
    "Hidden",
    "Restless",
    "Silver",
    "Final",
    "Wild",
)
_THINGS = (
    "Harbour",
    "Orchard",
    "Signal",
    "Winter",
    "Garden",
    "Letter",
    "Mountain",
    "Mirror",
    "Voyage",
    "Stranger",
)


class Page(NamedTuple):
    """The content of a page.

    Attributes:
        kind: The kind of model that the page shows, `"ratings"` or `"words"`.
        title: The title of the page.
        models: The exports to choose from: the folder of each below the page, ending in a slash or empty, and
            the name by which it is shown.
        titles: Titles of the items by their ids; an item without one is shown by its id.
        text: For words, how text becomes numbers: `tokenizer`, `length`, `buckets` and `outputs`.
    """

    kind: str
    title: str
    models: Sequence[Mapping[str, str]]
    titles: Mapping[str, str]
    text: Mapping[str, Any]


def write_page(page: Page, folder: Path, runtime: str | None = None) -> list[str]:
    """Writes the page beside an export.

    Args:
        page: The content of the page.
        folder: The folder of the export, to which the page's files are added.
        runtime: A folder with the browser's runtime; None, the default, to take it from the cache or by `npm
            pack`.

    Returns:
        The paths of the page's files, below the folder.

    Raises:
        ExportError: The browser's runtime is not in the folder, or cannot be fetched.
    """
    sources = runtime_files(runtime)
    written = []
    for name in PAGE_FILES:
        source_text = (resources.files("fedrecon.export._web") / "page_files" / name).read_bytes()
        write_atomically(folder / name, source_text)
        written.append(name)
    (folder / "runtime").mkdir(exist_ok=True)
    for name, source in sources.items():
        write_atomically(folder / "runtime" / name, source.read_bytes())
        written.append(f"runtime/{name}")
    content = {
        "kind": page.kind,
        "title": page.title,
        "models": [dict(model) for model in page.models],
        "titles": dict(page.titles),
        **page.text,
    }
    write_atomically(folder / "page.json", json.dumps(content, ensure_ascii=False) + "\n")
    return [*written, "page.json"]


def read_titles(path: Path) -> dict[str, str]:
    """Titles by the ids of items.

    Args:
        path: A file of lines `id::title::…`, as MovieLens 1M has it, or a CSV file whose first two columns
            are the id and the title, with or without a line of names.

    Raises:
        DataError: The file cannot be read, or a line has no title.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # as the titles of MovieLens 1M are
    lines = text.splitlines()
    colons = bool(lines) and "::" in lines[0]
    rows = [line.split("::") for line in lines] if colons else list(csv.reader(lines))
    titles = {}
    for number, row in enumerate(rows, 1):
        if len(row) < 2:
            raise DataError(f"{path}, line {number}: must hold an id and a title, got {','.join(row)!r}")
        titles[row[0]] = row[1]
    return titles


def invented_titles(ids: Sequence[Any]) -> dict[str, str]:
    """Titles for the items of generated ratings, made up from two lists of words."""
    titles = {}
    for number, identity in enumerate(ids):
        turn, rest = divmod(number, len(_QUALITIES) * len(_THINGS))
        quality, thing = _QUALITIES[rest // len(_THINGS)], _THINGS[rest % len(_THINGS)]
        titles[str(identity)] = f"The {quality} {thing}" + (f" {turn + 1}" if turn else "")
    return titles
