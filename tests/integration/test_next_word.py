"""A run of the next-word task from the command line, and what is done with it."""

import json
import math
import re
import shutil
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fedrecon.datasets.text._load import read_user
from fedrecon.datasets.text._vocabulary import bucket_of
from fedrecon.errors import DataError
from fedrecon.experiment.cli import main as cli
from fedrecon.experiment.storage.digests import read_json, seal
from fedrecon.experiment.storage.run_folder import FINGERPRINT, SETTINGS, settings_digest

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "next_word.toml"
SIZES = {
    "data.sentences": 8,
    "data.words": 6,
    "data.buckets": 3,
    "data.length": 6,
    "data.fractions.validation": 0,  # nothing to evaluate is less to compile
    "data.fractions.test": 0,
    "model.network.embedding": 4,
    "model.network.hidden": 5,
    "algorithm.split.batch_size": 2,
    "evaluation.split.batch_size": 2,
    "training.rounds": 2,
    "training.clients_per_round": 4,
    "training.clients_per_block": 2,
}


def run(*command, **settings):
    overrides = [x for name, value in settings.items() for x in ("--set", f"{name}={value}")]
    return cli.main([*map(str, command), *overrides])


def write(path, clients):
    path.write_text("\n".join(json.dumps({"client": c, "text": t}) for c, t in clients.items()))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        texts = {f"w{i}": [f"the court heard w{i}", "it was so", f"w{i} was the last"] * 2 for i in range(8)}
        texts |= {"none": [], "single": ["the court"], "unknown": ["xx yy zz"] * 3}
        data = write(folder / "texts.jsonl", texts)
        assert run("run", EXPERIMENT, "--data", data, "--out", folder / "run", **SIZES) == 0
        yield folder


def test_the_run_keeps_its_vocabulary(trained):
    named = json.loads((trained / "run/vocabularies.json").read_text())["word"]
    assert named[:3] == ["<padding>", "<begin>", "<end>"] and len(named) == 9


def test_completion_with_and_without_the_users_part(trained, capsys):
    (trained / "me.txt").write_text("the court heard motley\nmotley was so\n")
    command = (
        "complete",
        trained / "run",
        "--history",
        trained / "me.txt",
        "--prompt",
        "the court",
        "--top",
        "12",
    )
    assert run(*command) == 0
    shown = capsys.readouterr().out
    assert "the court …" in shown and "with it" in shown and "<begin>" not in shown
    general, personal = completed(trained, capsys, trained / "me.txt", "the court")
    assert len(general) == 8  # six words, the end and all other words
    assert {"(another word)", "(end of sentence)"} < set(general) and "motley" not in general
    assert "motley" in personal
    # All choices are there, so that their shares add up.
    assert [sum(x.values()) for x in (general, personal)] == pytest.approx([100, 100], abs=0.5)


def completed(trained, capsys, history, prompt):
    """The two columns: what each word's share is."""
    command = ("complete", trained / "run", "--history", history, "--prompt", prompt, "--top", "12")
    assert run(*command) == 0
    heading, _, *rows = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert heading.rstrip() == f"{prompt} …"
    columns = {}, {}
    for row in rows:
        found = re.findall(r"(\S.*?) +(\d+\.\d)(?= |$)", row)
        for column, (word, share) in zip(columns[-len(found) :], found, strict=True):
            column[word] = float(share)
    return columns


def test_words_are_shown_as_they_are(trained, capsys):
    own = ["[applause]", "[/quote]", ":smile:"]
    assert {bucket_of(word, 3) for word in own} == {0, 1, 2}
    (trained / "marks.txt").write_text(" ".join(own))
    general, personal = completed(trained, capsys, trained / "marks.txt", "[/b] :smile: [red]so")
    assert set(own) <= set(personal)
    # What knows nothing of the user cannot know its words.
    assert not set(own) & set(general) and "(another word)" in general
    assert "(another word)" not in personal


def test_a_run_that_predicts_all_other_words_as_one(trained, capsys):
    run_folder, other = trained / "apart", trained / "apart.jsonl"
    settings = {**SIZES, "data.output_buckets": 1}
    command = ("run", EXPERIMENT, "--data", trained / "texts.jsonl", "--out", run_folder)
    assert run(*command, **settings) == 0
    assert "6 words, 3 buckets in, 1 out" in capsys.readouterr().out
    (trained / "motley.txt").write_text("the court heard motley\nmotley was so\n")
    completion = ("complete", run_folder, "--history", trained / "motley.txt", "--prompt", "motley")
    assert run(*completion, "--top", "12") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:] if line.strip()]
    assert len(lines) == 8  # six words, the end and a bucket
    write(other, {"ann": ["the court heard xx"] * 4, "bob": ["yy zz"] * 4})
    assert run("evaluate", run_folder, "--data", other) == 0
    rows = pq.read_table(run_folder / "evaluated-clients-other.parquet").to_pylist()
    assert all(math.isfinite(row["cross_entropy"]) for row in rows)
    assert run("personalize", run_folder, "--data", other, "--out", trained / "parts.parquet") == 0
    capsys.readouterr()
    assert run(*command, **SIZES) != 0  # another run's folder
    assert "data.output_buckets is 1 there and 'same' here" in capsys.readouterr().err


def test_a_centralised_run_is_not_completed(trained, capsys):
    shutil.copytree(trained / "run", trained / "central")
    config = trained / "central" / "config.toml"
    before, _ = config.read_text().split("[algorithm]")
    config.write_text(f'{before}[algorithm]\nname = "centralized"\n')
    marks = trained / "central" / FINGERPRINT
    written = {SETTINGS: settings_digest(tomllib.loads(config.read_text()))}
    marks.write_text(json.dumps(seal({**read_json(marks), **written})))
    assert run("complete", trained / "central", "--history", trained / "me.txt", "--prompt", "x") == 2
    assert "completion takes a federated run, this one is of 'centralized'" in capsys.readouterr().err


def test_awkward_clients_of_other_data_are_evaluated(trained, capsys):
    texts = {"none": [], "single": ["the court"], "unknown": ["xx yy"] * 4, "ann": ["the court heard"] * 4}
    other = write(trained / "awkward.jsonl", texts)
    assert run("evaluate", trained / "run", "--data", other) == 0
    shown = "other data: 4 clients with 9 examples, and the run was trained on 9 clients with 40 examples; "
    assert shown in capsys.readouterr().out
    rows = pq.read_table(trained / "run/evaluated-clients-other.parquet").to_pylist()
    found = {row["client"]: row for row in rows}
    # Half of the batches of two sentences is support: who has one batch has no query set. Others have two
    # sentences of three and four tokens, ends included.
    assert [found[name]["weight"] for name in texts] == [0, 0, 6, 8]
    assert found["unknown"]["oov"] == pytest.approx(2 / 3) and found["ann"]["oov"] == 0  # ends are known
    for name in texts:
        assert math.isfinite(found[name]["cross_entropy"]) == (name in ("unknown", "ann"))


def test_what_cannot_be_completed(trained, capsys):
    write(trained / "two.jsonl", {"a": ["x"], "b": ["y"]})
    for history, message in (
        ("two.jsonl", "must hold one client, it holds 2: 'a', 'b'"),
        ("no.txt", "no such file"),
    ):
        command = ("complete", trained / "run", "--history", trained / history, "--prompt", "x")
        assert run(*command) != 0
        assert message in capsys.readouterr().err
    (trained / "blank.txt").write_text(" \n")
    assert run("complete", trained / "run", "--history", trained / "blank.txt", "--prompt", "x") != 0
    assert "must hold text" in capsys.readouterr().err


def test_parameters_of_another_vocabulary_are_refused(trained, capsys):
    other = write(trained / "other.jsonl", {f"v{i}": ["a quite different text"] * 4 for i in range(9)})
    settings = {**SIZES, "training.initial_global_params": trained / "run"}
    assert run("run", EXPERIMENT, "--data", other, "--out", trained / "second", **settings) != 0
    assert (
        "must be of a run with the same vocabulary of 'word', but its entry 3 is" in capsys.readouterr().err
    )


def test_the_vocabulary_of_another_run_is_refused_though_it_is_as_long(trained, capsys):
    swapped = trained / "swapped"
    shutil.copytree(trained / "run", swapped)
    named = json.loads((swapped / "vocabularies.json").read_text())
    named["word"][3:5] = reversed(named["word"][3:5])
    (swapped / "vocabularies.json").write_text(json.dumps(named))
    other = write(trained / "few.jsonl", {"ann": ["the court heard"] * 4})
    capsys.readouterr()
    for command in (
        ("complete", swapped, "--history", trained / "me.txt", "--prompt", "x"),
        ("evaluate", swapped, "--data", other),
        ("personalize", swapped, "--data", other, "--out", trained / "swapped.parquet"),
        ("run", EXPERIMENT, "--data", trained / "texts.jsonl", "--out", trained / "third"),
    ):
        start = {**SIZES, "training.initial_global_params": swapped} if command[0] == "run" else {}
        assert run(*command, **start) == 1
        error = capsys.readouterr().err
        assert "is not the vocabulary that the run's parameters were trained with" in error
    assert not (trained / "swapped.parquet").exists()


def test_half_a_surrogate_pair_is_shown_as_an_escape(trained, capsys):
    write(trained / "half.jsonl", {"me": ["\ud83d so", "\ud83d was"]})
    assert json.loads((trained / "half.jsonl").read_text())["text"][0][0] == "\ud83d"
    _, personal = completed(trained, capsys, trained / "half.jsonl", "so")
    assert any("ud83d" in word for word in personal)


def test_a_users_text_in_any_form(tmp_path):
    assert read_user(write(tmp_path / "me.jsonl", {"me": ["x y"]})) == ["x y"]
    (tmp_path / "me.txt").write_bytes(b"x\xff")
    with pytest.raises(DataError, match=r"me\.txt, line 1: must be UTF-8"):
        read_user(tmp_path / "me.txt")


def test_a_run_whose_clients_know_their_own_words(trained, capsys):
    folder, other = trained / "own", trained / "own.jsonl"
    settings = {**SIZES, "data.output_buckets": 1, "model.own_words": 20}
    assert run("run", EXPERIMENT, "--data", trained / "texts.jsonl", "--out", folder, **settings) == 0
    (trained / "own.txt").write_text("the court heard motley\nmotley was so wild\n")
    capsys.readouterr()
    completion = ("complete", folder, "--history", trained / "own.txt", "--prompt", "motley was")
    assert run(*completion, "--top", "20") == 0
    shown = capsys.readouterr().out
    assert "motley" in shown.split("with it")[1] and "wild" in shown and "(another word)" in shown
    write(other, {"ann": ["the court heard xx"] * 4, "bob": ["yy zz"] * 4})
    assert run("evaluate", folder, "--data", other) == 0
    rows = pq.read_table(folder / "evaluated-clients-other.parquet").to_pylist()
    assert all(0 <= row["accuracy_own_word"] <= 1 for row in rows)
    assert run("personalize", folder, "--data", other, "--out", trained / "own.parquet") == 0
    capsys.readouterr()
    assert run("export", folder, "--out", trained / "exported") == 0
    assert "checked against JAX" in capsys.readouterr().out
