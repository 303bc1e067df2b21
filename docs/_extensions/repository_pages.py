"""Pages of the repository that lie outside `docs/`, on the site.

The pages of `docs/` link to `../examples/NAME.py`, `../benchmarks/README.md` and others, which a code host
opens. For the site each such file becomes a page in `docs/_generated/`, and the links are turned to it.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx

_LINK = re.compile(r"\]\((?:\.\./)+((?!docs/)[^)#]+)(#[^)]*)?\)")
_TO_DOCS = re.compile(r"\]\((?:\.\./)?docs/([^)]+)\)")


def _page_name(path: str) -> str:
    return re.sub(r"\W+", "_", path.removesuffix(".md").removesuffix(".py")).strip("_").lower()


def _linked_files(docs: Path) -> list[str]:
    """The files outside `docs/` to which its pages link, as paths from the repository's root."""
    texts = (p.read_text() for p in sorted(docs.rglob("*.md")) if "_" not in p.relative_to(docs).parts[0][:1])
    links = {match[1] for text in texts for match in _LINK.finditer(text)}
    return sorted(link for link in links if (docs.parent / link).is_file())


def _write(app: Sphinx) -> None:
    docs = Path(app.srcdir)
    folder = docs / "_generated" / "repository"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {}
    for path in _linked_files(docs):
        source = docs.parent / path
        if path.endswith(".md"):
            text = _TO_DOCS.sub(r"](../../\1)", source.read_text())
            # What such a page links to beside itself has no page here.
            text = re.sub(r"\[([^\]]*)\]\((?!https?:|#|\.\./\.\./)[^)]*\)", r"\1", text)
        else:
            kind = {"py": "python", "toml": "toml"}.get(path.rsplit(".")[-1], "text")
            text = f"# `{path}`\n\n```{{literalinclude}} ../../../{path}\n:language: {kind}\n```\n"
        pages[f"{_page_name(path)}.md"] = "---\norphan: true\n---\n\n" + text
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def _turn_links(app: Sphinx, docname: str, content: list[str]) -> None:
    if docname.startswith("_generated/"):
        return
    up = "../" * docname.count("/")

    def turned(match: re.Match[str]) -> str:
        if not (Path(app.srcdir).parent / match[1]).is_file():
            return match[0]  # Sphinx will say that there is no such file
        return f"]({up}_generated/repository/{_page_name(match[1])}.md{match[2] or ''})"

    content[0] = _LINK.sub(turned, content[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Writes the pages before Sphinx looks for sources, and turns links as it reads them."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _turn_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
