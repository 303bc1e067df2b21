"""The task of experiments: its settings, its data and its model."""

from typing import get_args

import jax
import numpy as np
import pytest

from fedrecon.algorithms._base import Broadcast, Update
from fedrecon.core._examples import Examples
from fedrecon.datasets.text._vocabulary import bucket_of
from fedrecon.experiment import config as configs
from fedrecon.experiment.settings.algorithms import AnyAlgorithmSettings
from fedrecon.experiment.tasks.next_word import TASK
from fedrecon.experiment.training.build import spec_of, task_of

SMALL = [
    "task=next_word",
    "data.generated.clients=20",
    "data.generated.sentences=6",
    "data.generated.kinds=3",
    "data.generated.words=5",
    "data.buckets=7",
    "model.network.embedding=4",
]


def test_a_generated_corpus_has_the_shared_words_as_vocabulary_and_own_words_in_buckets():
    task = task_of(configs.load(None, [*SMALL, "model.network.hidden=5"]))
    assert {name: len(x) for name, x in task.sets().items()} == {"train": 16, "validation": 2, "test": 2}
    named = task.train.vocabularies["word"]
    assert named[:3].tolist() == ["<padding>", "<begin>", "<end>"] and len(named) == 3 + 15
    assert not any(word.startswith("~") for word in named)
    share = np.mean(task.test.column("bucket")[task.test.column("target") > 0] >= 0)
    assert 0.1 < share < 0.4
    known, unknown = [float(x.split()[0]) for x in task.notes[NOTE].split(", ")]
    assert known < unknown


NAMES = [
    get_args(kind.model_fields["name"].annotation)[0] for kind in get_args(get_args(AnyAlgorithmSettings)[0])
]


@pytest.mark.parametrize("own_words", [0, 9])
@pytest.mark.parametrize("name", NAMES)
def test_every_approach_trains_and_serves_the_model(name, own_words):
    """As far as shapes tell."""
    given = ["model.network.hidden=5", f"algorithm.name={name}", "training.clients_per_round=2"]
    given.append(f"model.own_words={own_words}")
    config = configs.load(None, [*SMALL, *given])
    spec = spec_of(config, task_of(config))

    def round(key, train, test):
        state = spec.algorithm.init(key)
        broadcast = Broadcast(state.global_params, state.round)
        client_state = spec.algorithm.init_client_state(state.global_params, key)
        update, _ = spec.algorithm.client_update(broadcast, client_state, train, key)
        local = spec.algorithm.personalize(broadcast, client_state, test, key)
        measured = spec.algorithm.personal_model.metrics(state.global_params, local, test.data)
        return update, spec.algorithm.server_update(state, update), measured

    sets = spec.clients, next(iter(spec.validation.values()))
    given = (Examples(dict(x[x.ids[0]]), np.ones(x.num_examples[0], bool)) for x in sets)
    update, state, measured = jax.eval_shape(round, jax.random.key(0), *given)
    assert type(update) is Update and "accuracy" in update.metrics
    assert "accuracy_restricted" in measured
    assert ("accuracy_own_word" in measured) == (own_words > 0)
    assert all(np.issubdtype(x.dtype, np.floating) for x in jax.tree.leaves(state.global_params))


def test_runs_without_own_words_are_those_of_earlier_versions():
    def spec(*given):
        config = configs.load(
            None, [*SMALL, "model.network.hidden=5", "training.clients_per_round=2", *given]
        )
        return spec_of(config, task_of(config))

    earlier, own = spec("model.own_words=0"), spec("model.own_words=9")
    assert "own_words" not in earlier.settings["model"] and own.settings["model"]["own_words"] == 9
    assert set(earlier.clients.fields) == {"word", "bucket", "target"}
    assert earlier.examples() == own.examples()  # so that the two can be compared


NOTE = "Least cross-entropy of shared words inside a sentence"


def test_a_vocabulary_that_is_cut_has_the_frequent_words_of_every_kind():
    task = task_of(configs.load(None, [*SMALL, "model.network.hidden=5", "data.words=6"]))
    assert set(task.train.vocabularies["word"][3:]) == {
        f"{kind}.{word}" for kind in range(3) for word in (0, 1)
    }
    assert NOTE not in task.notes  # it is that of the whole vocabulary


def test_words_are_counted_in_what_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i in range(4):
        (tmp_path / f"w{i}.txt").write_text("early\n" * 4 + "later later\n" * 4)
    given = [f"data.path={tmp_path}", "data.words=1", "data.held_out.test=0.5", "data.fractions.train=1"]
    given += ["data.fractions.validation=0", "data.fractions.test=0", "model.network.hidden=5"]
    task = task_of(configs.load(None, [*SMALL, *given]))
    assert task.train.vocabularies["word"][3:].tolist() == ["early"]
    assert task.train.num_examples.tolist() == [4] * 4
    held_out = task.held_out["test"]
    assert (
        held_out.vocabularies["word"][3:].tolist() == ["early"] and held_out.num_examples.tolist() == [8] * 4
    )


def test_other_data_come_in_the_vocabulary_of_the_run(tmp_path):
    (tmp_path / "ann.txt").write_text("0.1 ~3.1\nnever 0.2 never")
    config = configs.load(None, [*SMALL, f"data.path={tmp_path}"])
    clients, said = TASK.load_in_vocabulary(config, {"word": ["<padding>", "<begin>", "<end>", "0.1", "0.2"]})
    assert clients["ann"]["word"][:, :4].tolist() == [[1, 3, 0, 0], [1, 0, 4, 0]]
    assert said == "42.9% of their tokens are outside the run's vocabulary"  # 3 of 7, ends included
    with pytest.raises(ValueError, match="the vocabulary must begin with <padding>"):
        TASK.load_in_vocabulary(config, {"item": [1]})


def test_other_words_in_fewer_buckets_as_targets(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "ann.txt").write_text("~1.1 ~2.2 ~3.3 0.1")
    given = [*SMALL, f"data.path={tmp_path}", "data.output_buckets=1"]
    known = {"word": ["<padding>", "<begin>", "<end>", "0.1"]}
    ann = TASK.load_in_vocabulary(configs.load(None, given), known)[0]["ann"]
    assert ann["target"][0, :5].tolist() == [4, 4, 4, 3, 2]
    assert ann["bucket"][0, 1:4].tolist() == [bucket_of(word, 7) for word in ("~1.1", "~2.2", "~3.3")]
    with pytest.raises(ValueError, match=r"data\.output_buckets must be greater .* 1 or 'same', got 0"):
        configs.load(None, [*SMALL, "data.output_buckets=0"])


def test_runs_of_the_same_targets_are_comparable():
    def examples(*given):
        config = configs.load(
            None, [*SMALL, "model.network.hidden=5", "training.clients_per_round=2", *given]
        )
        return spec_of(config, task_of(config)).examples()

    apart, one = examples("data.output_buckets=1"), examples("data.buckets=1")
    assert apart == one and set(one) == {"train", "validation", "test"}
    assert not set(examples().values()) & set(one.values())


def test_the_networks_are_variants():
    config = configs.load(None, [*SMALL, "model.network.kind=transformer", "model.network.heads=2"])
    assert config.model.network.rank == 4
    with pytest.raises(ValueError, match=r"model\.network\.kind must be one of 'lstm', 'transformer'"):
        configs.load(None, [*SMALL, "model.network.kind=rnn"])


@pytest.mark.parametrize("name", ["next_word.toml", "next_word-paper.toml"])
def test_the_experiments_that_ship_are_whole(repository, name):
    config = configs.load(repository / "experiments" / name)
    assert config.task == "next_word"
    parts = config.algorithm.parts()
    assert "yogi_zero" in repr(parts["server_optimizer"]) and parts["update"].sequential
