"""The client file: made once, whole, and again only when its source changes."""

import os
import re

import numpy as np
import pytest

from fedrecon.data._clients import Clients
from fedrecon.datasets.ratings import _prepare as module
from fedrecon.datasets.ratings._columns import stable_order
from fedrecon.datasets.ratings._prepare import prepare
from fedrecon.errors import DataError

TEXT = "7::30::4::100\n7::10::3::90\n2::30::5::80\n7::20::1::100\n"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text(TEXT)
    return path


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch):
    """How often a client file was written."""
    written = []
    write = Clients.write

    def counted(self, path):
        written.append(path)
        write(self, path)

    monkeypatch.setattr(Clients, "write", counted)
    return written


def test_ratings_by_client_in_the_order_of_the_file(source, cache):
    clients = prepare(source, cache=cache)
    assert clients.ids.tolist() == [2, 7]
    assert clients.fields == ("item", "rating", "time")
    assert clients.vocabularies["item"].tolist() == [10, 20, 30]
    assert {name: x.tolist() for name, x in clients[7].items()} == {
        "item": [2, 0, 1],
        "rating": [4, 3, 1],
        "time": [100, 90, 100],
    }
    assert clients[7]["item"].dtype == np.int32
    assert clients[7]["rating"].dtype == np.float32


def test_converted_once(source, cache, conversions):
    first = prepare(source, cache=cache)
    second = prepare(os.path.relpath(source), cache=cache)
    assert len(conversions) == 1
    np.testing.assert_array_equal(first.column("rating"), second.column("rating"))


def test_a_folder_gives_the_same_client_file_as_its_rating_file(source, cache, conversions):
    prepare(source, cache=cache)
    prepare(source.parent, cache=cache)
    assert len(conversions) == 1


def test_converted_again_when_the_source_changes(source, cache, conversions):
    prepare(source, cache=cache)
    times = source.stat()
    source.write_text(TEXT.replace("::5::", "::2::"))
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time, same path
    assert prepare(source, cache=cache)[2]["rating"].tolist() == [2]
    assert len(conversions) == 2
    assert len(list(cache.iterdir())) == 1, "the former client file is removed"


def test_each_setting_has_its_own_client_file(source, cache, conversions):
    source.write_text(TEXT + "2::30::1::85\n")
    for _ in range(2):
        assert prepare(source, duplicates="last", cache=cache)[2]["rating"].tolist() == [1]
        assert prepare(source, duplicates="all", cache=cache)[2]["rating"].tolist() == [5, 1]
        assert prepare(source, duplicates="all", scale=(1, 6), cache=cache)[2]["rating"].tolist() == [5, 1]
    assert len(conversions) == 3
    with pytest.raises(DataError, match="line 5: client 2 must rate item 30 once"):
        prepare(source, cache=cache)


@pytest.mark.parametrize(
    "damage", [lambda x: x[:-100], lambda x: x[:10], lambda x: b"", lambda x: b"\0" * len(x)]
)
def test_a_damaged_client_file_is_made_again(source, cache, conversions, damage):
    prepare(source, cache=cache)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert prepare(source, cache=cache)[2]["rating"].tolist() == [5]
    assert len(conversions) == 2


def test_text_ids_survive_the_client_file(tmp_path, cache):
    (tmp_path / "own.csv").write_text("who,what,stars\nb,x,1\na,\u00e9,2\na,x,3\n", encoding="utf-8")
    for _ in range(2):
        clients = prepare(
            tmp_path / "own.csv", columns={"client": "who", "item": "what", "rating": "stars"}, cache=cache
        )
        assert clients.ids.tolist() == ["a", "b"]
        assert clients.vocabularies["item"].tolist() == ["x", "\u00e9"]
        assert clients["a"]["item"].tolist() == [1, 0]
        assert "time" not in clients.fields


def test_a_source_that_changes_while_it_is_read(source, cache, monkeypatch):
    group = module.group

    def slow(ratings):
        source.write_text(TEXT + "1::1::1::1\n")
        return group(ratings)

    monkeypatch.setattr(module, "group", slow)
    with pytest.raises(DataError, match=re.escape(f"{source}: must not change while it is read, but did")):
        prepare(source, cache=cache)
    assert not cache.exists()


def test_a_failed_write_leaves_nothing(source, cache, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        DataError, match=r"cache: the cache folder must be writable: No space left on device; .*XDG_"
    ):
        prepare(source, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_a_folder(source, tmp_path):
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=f"{cache}: the cache folder must be writable"):
            prepare(source, cache=cache)


def test_the_default_folder_is_that_of_xdg(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    prepare(source)
    (path,) = (tmp_path / "xdg" / "fedrecon").iterdir()
    assert path.suffix == ".arrow"


def test_parameters_are_checked_with_a_client_file_too(source, cache):
    prepare(source, cache=cache)
    with pytest.raises(ValueError, match="duplicates must be one of error, last, all, got 'none'"):
        prepare(source, duplicates="none", cache=cache)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("codes", [[], [0], [2, 0, 2, 1, 0], [-1, 0, -1, -2], [5] * 100])
def test_rows_of_equal_codes_keep_their_order(codes, kind):
    codes = np.array([np.iinfo(kind).max + 1 + code if code < 0 else code for code in codes], kind)
    np.testing.assert_array_equal(stable_order(codes), np.argsort(codes, kind="stable"))
