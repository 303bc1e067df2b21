"""The layout of ids, buckets, and what a vocabulary makes of texts."""

import json
import subprocess
import sys

import numpy as np
import pytest

from fedrecon.datasets.text._dataset import arrange
from fedrecon.datasets.text._encode import Writer, to_clients
from fedrecon.datasets.text._vocabulary import BEGIN, END, PADDING, Vocabulary, bucket_of
from fedrecon.errors import DataError


def clients_of(texts, length=4):
    return to_clients((Writer(c, t, c) for c, t in texts.items()), str.split, None, length, "test")


def test_layout():
    vocabulary = Vocabulary(["the", "court"], buckets=3)
    assert (PADDING, BEGIN, END) == (0, 1, 2)
    assert (vocabulary.rows, vocabulary.classes) == (5, 8)
    assert [vocabulary.id_of(w) for w in ("the", "court")] == [3, 4]
    ids = {vocabulary.id_of(f"word{i}") for i in range(60)}
    assert ids == {5, 6, 7}  # buckets come after all else: neither begin nor end is among them
    assert vocabulary.row_of("word1") == PADDING


def test_buckets_are_the_same_in_every_process_and_version():
    words = ["certiorari", "naïve", "", "\ud800", "x" * 1000]
    here = [bucket_of(w, 500) for w in words]
    module = "fedrecon.datasets.text._vocabulary"
    code = f"from {module} import bucket_of; print([bucket_of(w, 500) for w in {words!r}])"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert json.loads(there.stdout) == here
    assert here == [FROZEN[w] for w in words]
    counts = np.bincount([bucket_of(f"w{i}", 10) for i in range(5000)], minlength=10)
    assert counts.min() > 400 and counts.max() < 600


FROZEN = {"certiorari": 255, "naïve": 6, "": 256, "\ud800": 481, "x" * 1000: 110}


def test_inputs_and_targets():
    vocabulary = Vocabulary(["the", "court"], buckets=500)
    own = bucket_of("motley", 500)
    clients = clients_of({"a": ["the motley court", "motley the motley the court", "court"]})
    encoded = vocabulary.encode(clients)["a"]
    assert {x.dtype for x in encoded.values()} == {np.dtype(np.int32)}
    # Sentence by sentence: room for an end; cut at four words, without one; a single word.
    np.testing.assert_array_equal(encoded["word"], [[1, 3, 0, 4], [1, 0, 3, 0], [1, 4, 0, 0]])
    np.testing.assert_array_equal(
        encoded["bucket"], [[-1, -1, own, -1], [-1, own, -1, own], [-1, -1, -1, -1]]
    )
    bucket = 5 + own
    np.testing.assert_array_equal(
        encoded["target"], [[3, bucket, 4, 2], [bucket, 3, bucket, 3], [4, 2, 0, 0]]
    )
    assert clients.vocabularies["token"][0] == ""  # not a word, though it is an entry of the lexicon


def test_targets_in_other_buckets_than_inputs():
    clients = clients_of({"a": ["the motley court", "sundry motley the sundry court", "court"]})
    names = ["the", "court"]
    apart, many, one = (Vocabulary(names, *b).encode(clients)["a"] for b in ((500, 1), (500,), (1,)))
    np.testing.assert_array_equal(apart["target"], one["target"])
    np.testing.assert_array_equal(apart["bucket"], many["bucket"])
    assert len(np.unique(apart["bucket"])) == 3  # none, and one for each of the two words
    vocabulary = Vocabulary(names, 2, output_buckets=7)
    assert (vocabulary.classes, vocabulary.id_of("motley")) == (12, 5 + bucket_of("motley", 7))
    assert (
        vocabulary.local_row_of("motley") == bucket_of("motley", 2) and vocabulary.local_row_of("the") == -1
    )
    assert repr(vocabulary) == "Vocabulary(2 words, 2 buckets in, 7 out)"
    default = Vocabulary(names, 500)
    assert default.output_buckets == 500 and default.id_of("motley") - 5 == default.local_row_of("motley")


def test_words_are_counted_over_training_clients_only():
    texts = {f"c{i}": ["common common rare"] for i in range(30)}
    texts |= {f"d{i}": [" ".join(["loud"] * 4)] * 9 for i in range(10)}
    clients = clients_of(texts)
    sets, vocabulary = arrange(clients, seed=1, words=2, buckets=1)
    trained = set(sets["train"].ids.tolist())
    loud = sum(36 for c in trained if c[0] == "d")
    common = sum(2 for c in trained if c[0] == "c")
    assert set(vocabulary.words) == {"loud", "common"} and (loud > common) == (vocabulary.words[0] == "loud")
    assert {name: len(x) for name, x in sets.items()} == {"train": 32, "validation": 4, "test": 4}
    quiet = clients.take([i for i, c in enumerate(clients.ids) if c in trained and c[0] == "c"])
    _, vocabulary = arrange(quiet, seed=1, words=5, buckets=1, fractions={"train": 1.0})
    assert vocabulary.words == ("common", "rare")


def test_ties_go_by_alphabet():
    clients = clients_of({"a": ["b a", "c d"]})
    assert Vocabulary.most_frequent(clients, 3, 1).words == ("a", "b", "c")


def test_a_client_whose_every_token_is_unknown_and_one_without_text():
    clients = clients_of({"a": ["x y"], "b": [], "c": ["u v", "w"]})
    encoded = Vocabulary(["z"], buckets=7).encode(clients)
    assert encoded.num_examples.tolist() == [1, 0, 2]
    assert (encoded["a"]["target"][0, :2] >= 4).all() and encoded["a"]["target"][0, 2:].tolist() == [
        END,
        PADDING,
    ]


def test_saved_with_a_run_and_read_again(tmp_path):
    vocabulary = Vocabulary(["the", "<end>"], buckets=2)  # a word of the text that looks like ours
    (tmp_path / "vocabularies.json").write_text(json.dumps({"word": vocabulary.named().tolist()}))
    assert Vocabulary.read(tmp_path, 2).words == ("the", "<end>")
    assert repr(vocabulary) == "Vocabulary(2 words, 2 buckets)"
    clients = clients_of({"a": ["x the"]})
    _, kept = arrange(clients, seed=0, words=2, buckets=2, fractions={"train": 1.0}, vocabulary=tmp_path)
    assert kept.words == ("the", "<end>")
    with pytest.raises(DataError, match=r"must have at most data\.words = 1 words, it has 2"):
        arrange(clients, seed=0, words=1, buckets=2, fractions={"train": 1.0}, vocabulary=tmp_path)
    with pytest.raises(DataError, match="the vocabulary must have buckets = 5, it has 2"):
        arrange(clients, seed=0, words=2, buckets=5, vocabulary=vocabulary)
    with pytest.raises(DataError, match="the vocabulary must have output_buckets = 1, it has 2"):
        arrange(clients, seed=0, words=2, buckets=2, output_buckets=1, vocabulary=vocabulary)
    read = Vocabulary.read(tmp_path, 2, 9)
    assert (read.buckets, read.output_buckets) == (2, 9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("[", "must be a run's vocabularies.json with an entry 'word'"),
        ('{"item": [1]}', "must be a run's vocabularies.json with an entry 'word'"),
        ('{"word": [1]}', "must be a list of words"),
        ('{"word": ["the"]}', "must begin with <padding>, <begin>, <end>"),
        ('{"word": ["<padding>", "<begin>", "<end>", "a", "a"]}', "'a' comes more than once"),
    ],
)
def test_a_vocabulary_that_is_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / "vocabularies.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Vocabulary.read(tmp_path, 1)


def test_buckets_must_be_some():
    with pytest.raises(DataError, match="buckets must be a whole number of at least 1, got 0"):
        Vocabulary(["a"], 0)
    with pytest.raises(DataError, match="output_buckets must be a whole number of at least 1, got 0"):
        Vocabulary(["a"], 3, 0)


def test_texts_too_large_for_memory_lie_in_files_without_a_name(tmp_path, monkeypatch):
    texts = {f"w{i}": [f"the court heard w{i}", "it was so", f"w{i}"] * (i + 1) for i in range(5)}

    def made():
        writers = [Writer(name, sentences, name) for name, sentences in texts.items()]
        clients = to_clients(writers, str.split, 7, 4, "here")
        vocabulary = Vocabulary.most_frequent(clients, 4, 3)
        return vocabulary, vocabulary.encode(clients)

    known, inside = made()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("fedrecon.datasets.text._encode._PIECE", 4)
    monkeypatch.setattr("fedrecon.data._cache._IN_MEMORY", 0)
    mapped = []
    original = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a, **k: mapped.append(k["shape"]) or original(*a, **k))
    again, outside = made()
    assert again.words == known.words
    assert outside.num_examples.tolist() == inside.num_examples.tolist() == [3, 6, 7, 7, 7]
    for field in ("word", "bucket", "target"):
        np.testing.assert_array_equal(outside.column(field), inside.column(field))
    # Pieces of four sentences, all of them, and the three fields.
    assert mapped == [(4, 4)] * 7 + [(2, 4), (30, 4)] + [(30, 4)] * 3
    assert list((tmp_path / "fedrecon").iterdir()) == []


def test_own_words_are_numbered_by_client():
    vocabulary = Vocabulary(["the"], buckets=3)
    texts = {"a": ["the owl the", "cat owl owl"], "quiet": [], "b": ["cat cat", "the", "owl dog"]}
    clients = vocabulary.encode(clients_of(texts), own_words=True)
    assert clients["a"]["own_target"].tolist() == [[0, 1, 0, 0], [2, 1, 1, 0]]
    assert clients["a"]["own_word"].tolist() == [[0, 0, 1, 0], [0, 2, 1, 1]]
    # In the order of the lexicon, which met the owl first.
    assert clients["b"]["own_target"].tolist() == [[2, 2, 0, 0], [0, 0, 0, 0], [1, 3, 0, 0]]
    assert clients["quiet"]["own_target"].shape == (0, 4)
