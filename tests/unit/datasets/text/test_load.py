"""Texts by client: every form of source, and what is wrong with one."""

import bz2
import gzip
import json
import lzma
import os
import sqlite3
import struct
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedrecon.datasets.text import _chitchat as chitchat
from fedrecon.datasets.text import _tf_example as protobuf
from fedrecon.datasets.text._load import holds_texts, read_user
from fedrecon.datasets.text._prepare import prepare
from fedrecon.datasets.text._sqlite import _clients
from fedrecon.datasets.text._tokenizers import tokenizer_of
from fedrecon.errors import DataError

TEXTS = {"ann": ["the court sat", "so it was"], "bob": ["the end"], "cy": []}


def varint(value):
    out = b""
    value &= (1 << 64) - 1
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def serialized(features):
    """A `tf.train.Example`, written as protoc's runtime writes it."""
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            inner = field(1, b"".join(field(1, v) for v in values))
        elif isinstance(values[0], float):
            inner = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            inner = field(3, field(1, b"".join(varint(v) for v in values)))
        entries += field(1, field(1, name.encode()) + field(2, inner))
    return field(1, entries)


def write_lines(path, texts):
    data = "\n".join(json.dumps({"client": c, "text": t}) for c, t in texts.items()) + "\n\n"
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())


def write_sqlite(path, part="train"):
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)")
    base.execute("CREATE TABLE client_metadata (client_id TEXT, split_name TEXT, num_examples INTEGER)")
    for client, sentences in TEXTS.items():
        for i, text in reversed(list(enumerate(sentences))):  # the later one first: time decides
            features = {"creation_date": [f"2009-01-0{i + 1}".encode()], "score": [-3, 5], "x": [0.5, 1.5]}
            row = (part, client, serialized({**features, "tokens": [text.encode()]}))
            base.execute("INSERT INTO examples VALUES (?, ?, ?)", row)
    base.execute("INSERT INTO examples VALUES ('test', 'dan', ?)", (serialized({"tokens": [b"hi"]}),))
    base.commit()
    base.close()


def texts_of(clients):
    lexicon = clients.vocabularies["token"]
    return {
        c: [" ".join(lexicon[t] for t in row if t) for row in clients[c]["token"]]
        for c in clients.ids.tolist()
    }


@pytest.mark.parametrize(
    "form", ["clients.jsonl", "clients.jsonl.gz", "lists.parquet", "rows.parquet", "", "so.sqlite"]
)
def test_every_form_holds_the_same_texts(tmp_path, form):
    path = tmp_path / "source" / form
    (tmp_path / "source").mkdir()
    if form.startswith("clients"):
        write_lines(path, TEXTS)
    elif form == "lists.parquet":
        pq.write_table(pa.table({"client": list(TEXTS), "text": list(TEXTS.values())}), path)
    elif form == "rows.parquet":
        rows = [("ann", "the court sat"), ("bob", "the end"), ("ann", "so it was")]
        pq.write_table(pa.table({"client": [r[0] for r in rows], "text": [r[1] for r in rows]}), path)
    elif form == "so.sqlite":
        write_sqlite(path)
    else:
        for client, sentences in TEXTS.items():
            (path / f"{client}.txt").write_text("\n".join(sentences))
    found = texts_of(prepare(path, cache=tmp_path / "cache"))
    # Where a row is a sentence there is no place for a client without one.
    wanted = {c: t for c, t in TEXTS.items() if t or form not in ("rows.parquet", "so.sqlite")}
    assert found == wanted


def test_a_folder_with_one_file_is_that_file_and_is_converted_once(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write_lines(folder / "clients.jsonl", TEXTS)
    first = texts_of(prepare(folder, cache=tmp_path / "cache"))  # read now: the file is mapped, and cut below
    made = sorted((tmp_path / "cache").iterdir())
    assert len(made) == 1
    stamp = made[0].stat().st_mtime_ns
    assert texts_of(prepare(folder, cache=tmp_path / "cache")) == first
    assert made[0].stat().st_mtime_ns == stamp
    made[0].write_bytes(b"cut short")
    assert texts_of(prepare(folder, cache=tmp_path / "cache")) == first
    write_lines(folder / "clients.jsonl", {"eve": ["another text"]})
    assert texts_of(prepare(folder, cache=tmp_path / "cache")) == {"eve": ["another text"]}
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_sentences_and_words_are_cut(tmp_path):
    write_lines(tmp_path / "a.jsonl", {"a": [" ", "one two three four", "five", "six"]})
    clients = prepare(tmp_path / "a.jsonl", sentences=2, length=3, cache=tmp_path / "c")
    assert texts_of(clients) == {"a": ["one two three", "five"]}


def test_tokenizers(tmp_path):
    write_lines(tmp_path / "a.jsonl", {"a": ["Don't, please."]})
    cache = tmp_path / "c"
    assert texts_of(prepare(tmp_path / "a.jsonl", cache=cache)) == {"a": ["Don't, please."]}
    assert texts_of(prepare(tmp_path / "a.jsonl", tokenizer="pieces", cache=cache)) == {
        "a": ["don't , please ."]
    }
    own = prepare(tmp_path / "a.jsonl", tokenizer="builtins:list", cache=cache)
    assert texts_of(own)["a"][0].startswith("D o n '")
    for name, message in (
        ("whitespce", "did you mean 'whitespace'"),
        ("string:nothing", "cannot be imported"),
        (":list", "cannot be imported"),
        ("string:digits", "tokenizer 'string:digits' must be a function, it is of type str"),
        ("builtins:len", "tokenizer 'builtins:len' must make a list of strings of \"Don't.*, got 14"),
        ("builtins:tuple", "must make a list of strings"),
        (".here:split", "cannot be imported: TypeError"),
        ("builtins:int", r"tokenizer 'builtins:int' fails on \"Don't, please\.\": ValueError"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(tmp_path / "a.jsonl", tokenizer=name, cache=cache)


def test_a_tokenizer_of_ones_own_lies_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mytokens.py").write_text("def split(sentence):\n    return sentence.split('-')\n")
    monkeypatch.chdir(tmp_path)
    # As a console script has it; where Python is told a module or reads its program, "" is there.
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(tmp_path))])
    before = list(sys.path)
    assert tokenizer_of("mytokens:split")("a-b c") == ["a", "b c"]
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "mytokens")
    (tmp_path / "brokentokens.py").write_text("def split(:\n")
    with pytest.raises(ValueError, match="'brokentokens:split' cannot be imported: SyntaxError"):
        tokenizer_of("brokentokens:split")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "line 2: must be JSON: .* at column 2"),
        (b'{"client": "b", "text": ["\xff"]}', "line 2: must be UTF-8 text, byte 26 is 0xff"),
        (b'{"client": "b\\ud83d", "text": []}', 'line 2: "client" must be Unicode text, got'),
        (b'["b"]', 'line 2: must be an object with "client" and "text", it lacks \'client\''),
        (b'{"client": "b"}', "it lacks 'text'"),
        (b'{"client": ' + b"9" * 5000 + b"}", "line 2: must be JSON of numbers that can be read: .* digits"),
        (b"[" * 100_000, "line 2: must be JSON that is less deeply nested"),
        (b'{"client": 1.5, "text": []}', 'line 2: "client" must be a string or a whole number, got 1.5'),
        (b'{"client": "b", "text": "x"}', 'line 2: "text" must be a list of sentences, got str'),
        (b'{"client": "b", "text": ["x", 3]}', 'line 2: "text" must hold strings, entry 1 is 3'),
        (b'{"client": "a", "text": ["x"]}', "line 2: client 'a' must come once, it is also at .*line 1"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"client": "a", "text": ["x"]}\n' + line + b"\n")
    with pytest.raises(DataError, match=rf"a\.jsonl, {message}" if message.startswith("line") else message):
        prepare(path, cache=tmp_path / "c")


def test_a_byte_order_mark_is_no_part_of_a_word(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.jsonl").write_bytes(mark + b'{"client": "a", "text": ["x y"]}\n')
    assert prepare(tmp_path / "a.jsonl", cache=tmp_path / "c").vocabularies["token"].tolist() == [
        "",
        "x",
        "y",
    ]
    (tmp_path / "ann.txt").write_bytes(mark + b"x y")
    assert read_user(tmp_path / "ann.txt") == ["x y"]


def test_text_files_that_are_not_utf_8_are_named(tmp_path):
    (tmp_path / "ann.txt").write_bytes(b"fine\nna\xefve")
    with pytest.raises(DataError, match=r"ann\.txt, line 2: must be UTF-8 text, byte 2 is 0xef"):
        prepare(tmp_path, cache=tmp_path / "c")


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="its file systems take no such name")
def test_a_text_file_whose_name_is_not_utf_8_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"na\xefve.txt")).write_text("fine")
    with pytest.raises(DataError, match=r"na.*ve\.txt': the name of a client's file must be UTF-8"):
        prepare(tmp_path, cache=tmp_path / "c")


def test_what_is_no_source(tmp_path):
    cache = tmp_path / "c"
    for name, content, message in [
        ("nothing.jsonl", None, "there is no such file or folder"),
        ("notes.doc", b"x", "must be JSON Lines"),
        ("a.jsonl.gz", gzip.compress(b'{"client": "a", "text": []}' * 99)[:40], "cannot be read"),
        ("empty.jsonl", b'{"client": "a", "text": []}\n', "must hold text, none of its 1 clients has a word"),
        ("a.parquet", b"PAR0", "cannot be read as Parquet"),
        ("a.sqlite", b"no database" * 99, "cannot be read as SQLite"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            prepare(path, cache=cache)
    with pytest.raises(DataError, match="must hold one source"):
        prepare(tmp_path, cache=cache)


@pytest.mark.parametrize(
    ("client", "text"),
    [
        (pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.string())),
        (pa.string(), pa.large_list(pa.large_string())),
        (pa.string(), pa.list_(pa.string(), 2)),
        (pa.string(), pa.list_view(pa.string())),
        (pa.string(), pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    ],
)
def test_parquet_of_every_type_of_text(tmp_path, client, text):
    table = pa.table({"client": pa.array(["a"], client), "text": pa.array([["x y", "z"]], text)})
    pq.write_table(table, tmp_path / "a.parquet")
    assert texts_of(prepare(tmp_path / "a.parquet", cache=tmp_path / "c")) == {"a": ["x y", "z"]}


def test_parquet_of_another_form(tmp_path):
    for columns, message in [
        ({"user": ["a"], "text": ["x"]}, "must have the columns 'client' and 'text'"),
        ({"client": [1.5], "text": ["x"]}, "column 'client' must hold strings or whole numbers, got double"),
        ({"client": ["a"], "text": [3]}, "column 'text' must hold strings or lists of strings, got int64"),
        ({"client": ["a", None], "text": ["x", "y"]}, "row 2: column 'client' must have a value"),
        ({"client": ["a"], "text": [["x", None]]}, "row 1: column 'text' must have a value"),
    ]:
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=message):
            prepare(tmp_path / "a.parquet", cache=tmp_path / "c")


def test_a_user_may_be_in_any_part_of_an_sqlite_file(tmp_path):
    write_sqlite(tmp_path / "all.sqlite")
    with pytest.raises(DataError, match="must hold one client, it holds 3: 'ann', 'bob', 'dan'"):
        read_user(tmp_path / "all.sqlite")
    base = sqlite3.connect(tmp_path / "all.sqlite")
    base.execute("DELETE FROM examples WHERE split_name = 'train'")
    base.commit()
    base.close()
    assert read_user(tmp_path / "all.sqlite") == ["hi"]


@pytest.mark.parametrize("part", [None, "train"])
def test_sqlite_is_searched_by_the_index_of_such_files(tmp_path, part):
    """Whatever the number of its rows, which in Stack Overflow are over a hundred million."""
    plans: list[str] = []

    class Explained(sqlite3.Connection):
        def execute(self, query, given=()):
            rows = super().execute(f"EXPLAIN QUERY PLAN {query}", given)
            plans.append(" ".join(str(row[-1]) for row in rows))
            return super().execute(query, given)

    write_sqlite(tmp_path / "a.sqlite")
    base = sqlite3.connect(tmp_path / "a.sqlite", factory=Explained)
    base.execute("CREATE INDEX by_split_and_client ON examples (split_name, client_id)")
    base.execute("CREATE INDEX by_client ON examples (client_id)")
    found = {writer.client: writer.sentences for writer in _clients(base, tmp_path / "a.sqlite", part)}
    assert {name: list(text) for name, text in found.items()} == {
        c: t for c, t in [*TEXTS.items(), *([("dan", ["hi"])] if part is None else [])] if t
    }
    searches = [plan for plan in plans if "examples" in plan and "USING" in plan]
    assert all("SEARCH" in plan and "client_id=?" in plan for plan in searches[1:]), plans
    assert ("SEARCH" in searches[0] and "split_name=?" in searches[0]) or part is None, plans
    base.close()


def test_sqlite_of_another_form(tmp_path):
    write_sqlite(tmp_path / "a.sqlite", part="heldout")
    with pytest.raises(DataError, match=r"part must be one of \['heldout', 'test'\], got 'train'"):
        prepare(tmp_path / "a.sqlite", cache=tmp_path / "c")
    base = sqlite3.connect(tmp_path / "a.sqlite")
    writer = max(TEXTS, key=lambda client: len(TEXTS[client]))
    for bad, message in [
        (b"\x0a\x05\x0a", "row 5: must hold a tf.train.Example: .*Wire format was corrupt"),
        (serialized({"text": [b"x"]}), "row 5: feature 'tokens' must hold one text, it holds 0 values"),
        (serialized({"tokens": [b"\xff"]}), "row 5: must be UTF-8"),
        (
            serialized({"tokens": [b"x"], "creation_date": [1, 2]}),
            "row 5: feature 'creation_date' must hold one value, it holds 2",
        ),
        (
            serialized({"tokens": [b"x"], "creation_date": [1]}),
            f"client {writer!r}: feature 'creation_date' must be of one type",
        ),
    ]:
        base.execute("DELETE FROM examples WHERE rowid = 5")
        base.execute("INSERT INTO examples (rowid, split_name, client_id, serialized_example_proto) "
                     "VALUES (5, 'heldout', ?, ?)", (writer, bad))  # fmt: skip
        base.commit()
        with pytest.raises(DataError, match=message):
            prepare(tmp_path / "a.sqlite", part="heldout", cache=tmp_path / "c")
    base.execute("DROP TABLE examples")
    base.commit()
    base.close()
    with pytest.raises(DataError, match="must have a table 'examples'"):
        prepare(tmp_path / "a.sqlite", cache=tmp_path / "c")


def test_protocol_buffers_of_every_kind():
    assert protobuf.example(serialized({"a": [-1, 0, 1 << 40], "b": [0.5, -2.0], "c": [b"", b"xy"]})) == {
        "a": [-1, 0, 1 << 40],
        "b": [0.5, -2.0],
        "c": [b"", b"xy"],
    }
    # Numbers one by one instead of packed, and fields of every wire type that nobody knows.
    strangers = varint(9 << 3) + varint(7) + varint(9 << 3 | 1) + b"8 bytes." + varint(9 << 3 | 5) + b"four"
    ints = field(3, varint(1 << 3) + varint(5) + varint(1 << 3) + varint(-6))
    floats = field(2, varint(1 << 3 | 5) + struct.pack("<f", 2.5))
    entries = [field(1, field(1, name) + field(2, x)) for name, x in ((b"i", ints), (b"f", floats))]
    assert protobuf.example(strangers + field(1, strangers + b"".join(entries))) == {"i": [5, -6], "f": [2.5]}
    # A field of another wire type than its own counts as unknown.
    assert protobuf.example(field(1, varint(1 << 3) + varint(3))) == {}
    for bad in (b"\x0a", b"\x80" * 11, b"\x0b"):
        with pytest.raises(ValueError, match="corrupt"):
            protobuf.example(bad)


def test_chitchat_is_read_as_its_package_has_it(tmp_path, monkeypatch):
    messages = [
        [
            {"text": "later", "timestamp": "2018-02", "sender": "s"},
            {"text": "hi", "timestamp": "2018-01", "sender": "s"},
        ],
        [{"text": "yes", "timestamp": "2018-03", "sender": "t"}],
    ]
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"1": {"messages": messages}}))
    monkeypatch.setattr(chitchat, "find_chitchat", lambda: path)
    assert texts_of(prepare("chitchat", cache=tmp_path / "c")) == {"s": ["hi", "later"], "t": ["yes"]}


def test_chitchat_without_its_package(monkeypatch):
    monkeypatch.setattr(chitchat, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'fedrecon\[chitchat\]'"):
        chitchat.find_chitchat()


def test_a_packed_sqlite_file_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_sqlite(tmp_path / "so.sqlite")
    content = (tmp_path / "so.sqlite").read_bytes()
    path = tmp_path / "so.sqlite.lzma"
    path.write_bytes(lzma.compress(content, lzma.FORMAT_ALONE))  # as TensorFlow Federated distributes them
    wanted = {c: t for c, t in TEXTS.items() if t}
    assert texts_of(prepare(path)) == wanted
    with pytest.raises(DataError, match="must unpack to at most"):
        prepare(path, part="test", unpacked_gib=1e-6)
    path.write_bytes(lzma.compress(b"no database" * 99, lzma.FORMAT_ALONE))
    with pytest.raises(DataError, match=r"so\.sqlite\.lzma: cannot be read as SQLite"):
        prepare(path)
    path.write_bytes(lzma.compress(content, lzma.FORMAT_ALONE)[:-9])
    with pytest.raises(DataError, match=r"so\.sqlite\.lzma: cannot be read: Compressed file ended"):
        prepare(path)
    assert [file.suffix for file in (tmp_path / "xdg" / "fedrecon").iterdir()] == [".arrow"]


def test_texts_of_shakespeare_are_snippets(tmp_path):
    base = sqlite3.connect(tmp_path / "shakespeare.sqlite")
    base.execute("CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)")
    base.execute(
        "INSERT INTO examples VALUES ('train', 'PLAY_ROLE', ?)", (serialized({"snippets": [b"my lord"]}),)
    )
    base.commit()
    base.close()
    assert texts_of(prepare(tmp_path / "shakespeare.sqlite", cache=tmp_path / "c")) == {
        "PLAY_ROLE": ["my lord"]
    }


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda content: pa.compress(content, codec="zstd", asbytes=True)),
    ],
)
def test_packed_lines(tmp_path, suffix, pack):
    write_lines(tmp_path / "a.jsonl", TEXTS)
    path = tmp_path / f"packed.ndjson{suffix}"
    path.write_bytes(pack((tmp_path / "a.jsonl").read_bytes()))
    assert texts_of(prepare(path, cache=tmp_path / "c")) == TEXTS
    with pytest.raises(DataError, match="must unpack to at most"):
        prepare(path, length=3, unpacked_gib=1e-8, cache=tmp_path / "c")
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DataError, match=r"packed\.ndjson.*: cannot be read: "):
        prepare(path, cache=tmp_path / "c")


def test_hidden_files_are_no_clients(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "ann.txt").write_text("hello there\n")
    (folder / "._ann.txt").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / "._all.jsonl").write_bytes(b"\0\5\x16\7")
    assert texts_of(prepare(folder, cache=tmp_path / "c")) == {"ann": ["hello there"]}
    assert holds_texts(folder)


REDDIT = {"x": [[["<BOS>", "the", "court", "<PAD>"], ["sat", "<EOS>", "<PAD>"]], [["so"]]], "y": [{}, {}]}
TWEETS = {
    "x": [["1", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", "someone", "so it was", "training"]],
    "y": [4],
}


def leaf(path, **users):
    content = {"users": list(users), "num_samples": [len(x["y"]) for x in users.values()], "user_data": users}
    path.write_text(json.dumps(content))
    return path


def test_leaf(tmp_path):
    path = leaf(tmp_path / "all_data.json", ann=REDDIT, bob=TWEETS, cy={"x": ["the end"], "y": [0]})
    wanted = {"ann": ["the court sat", "so"], "bob": ["so it was"], "cy": ["the end"]}
    assert texts_of(prepare(path, cache=tmp_path / "c")) == wanted
    packed = tmp_path / "all_data.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert texts_of(prepare(packed, cache=tmp_path / "c")) == wanted
    assert holds_texts(path) and holds_texts(packed)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (
            {"x": [[0.5, 1.0]], "y": [1]},
            r"user 'ann', example 0: must be a text, lists of words .*, got \[0\.5, 1",
        ),
        ({"y": [1]}, r"user 'ann': must have a list of examples \"x\", it lacks it"),
        (
            {"x": ["abcd", "bcde", "cdef", "fghi"], "y": ["e", "f", "g", "j"]},
            r"user 'ann', example 3: must begin a character after the one before it; .* -s niid",
        ),
        ({"x": ["abcd", "bcde", "cdef"], "y": ["e", "f"]}, "user 'ann': must have a list of labels \"y\""),
        (
            {"x": ["abcd", "bcde", "cdef", 3], "y": ["e", "f", "g", "h"]},
            r"example 3: must be a window .*, got \[3, \"h\"\]",
        ),
    ],
)
def test_leaf_that_holds_no_texts(tmp_path, user, message):
    with pytest.raises(DataError, match=message):
        prepare(leaf(tmp_path / "all_data.json", ann=user), cache=tmp_path / "c")


def windows(text, length=8):
    """A text as LEAF cuts Shakespeare."""
    starts = range(len(text) - length)
    return {"x": [text[i : i + length] for i in starts], "y": [text[i + length] for i in starts]}


def test_leafs_windows_of_characters_are_put_together(tmp_path):
    lines = ["What, ho, my liege", "I come anon."]
    path = leaf(tmp_path / "all_data.json", HENRY=windows("\n".join(lines)), PAGE=windows("Aye, sir."))
    assert texts_of(prepare(path, cache=tmp_path / "c", tokenizer="whitespace")) == {
        "HENRY": lines,
        "PAGE": ["Aye, sir."],
    }
    # Of other texts none is taken for a window, though one may go on where another ends.
    leaf(path, ann={"x": ["no", "oh"], "y": [0, 4]}, bob={"x": ["no", "oh", "ho"], "y": ["h", "x", "y"]})
    assert texts_of(prepare(path, cache=tmp_path / "c"))["bob"] == ["no", "oh", "ho"]


def test_leafs_windows_as_its_versions_write_them(tmp_path):
    lines = ["Once more unto the breach, friends;", "Or close the wall. In peace there is nothing"]
    # The present one replaces line breaks by blanks before it cuts windows.
    today = leaf(tmp_path / "today.json", HENRY=windows(" ".join(lines)))
    # The first one cut each line by itself, after as many blanks as a window has characters.
    parts = [windows(" " * 8 + line) for line in lines]
    first = leaf(tmp_path / "first.json", HENRY={key: [x for p in parts for x in p[key]] for key in "xy"})
    start, end = lines[1].split(" In ")
    for path, expected in (
        (today, [f"{lines[0]} {start}", f"In {end}"]),
        (first, [lines[0], start, f"In {end}"]),
    ):
        assert texts_of(prepare(path, cache=tmp_path / "c", tokenizer="whitespace")) == {"HENRY": expected}


def test_a_folder_of_leafs_parts(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    leaf(folder / "reddit_0_train.json", ann=REDDIT)
    leaf(folder / "reddit_1_train.json", bob=TWEETS)
    (folder / "notes.json").write_text("[]")
    wanted = {"ann": ["the court sat", "so"], "bob": ["so it was"]}
    assert holds_texts(folder)
    assert texts_of(prepare(folder, cache=tmp_path / "c")) == wanted
    leaf(folder / "reddit_1_train.json", cy=TWEETS)
    assert list(texts_of(prepare(folder, cache=tmp_path / "c"))) == ["ann", "cy"]
    write_lines(folder / "more.jsonl", TEXTS)
    with pytest.raises(DataError, match=r"must hold one source, .* it holds \['more\.jsonl', 'reddit_0"):
        prepare(folder, cache=tmp_path / "c")


def test_json_that_is_not_leafs(tmp_path):
    for content, message in [
        ("[1]", "must be LEAF's JSON"),
        ("{", "must be JSON"),
        ('{"user_data": 3}', "it lacks it"),
    ]:
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataError, match=rf"a\.json: {message}|{message}"):
            prepare(tmp_path / "a.json", cache=tmp_path / "c")


def test_texts_are_told_from_ratings(tmp_path):
    write_lines(tmp_path / "texts.jsonl.gz", TEXTS)
    (tmp_path / "reviews.jsonl").write_text('{"user_id": "a", "asin": "b", "rating": 5.0, "text": "x"}\n')
    (tmp_path / "reviews.json").write_text('{"review_id": "r", "user_id": "a", "stars": 5.0}\n')
    told = {path.name: holds_texts(path) for path in tmp_path.iterdir()}
    assert told == {"texts.jsonl.gz": True, "reviews.jsonl": False, "reviews.json": False}
    assert not holds_texts(tmp_path / "nothing.jsonl")
