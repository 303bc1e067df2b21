"""Run folders know their runs again whatever classes, functions and arguments are called in Python."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.folders import write_run
from tests.small import rating_model

from fedrecon.algorithms._building_blocks import WeightedMean, by_examples, uniform
from fedrecon.algorithms._fedrecon import fedrecon
from fedrecon.algorithms._fedsim import fedsim
from fedrecon.algorithms._full_gradient import full_gradient
from fedrecon.core import _splits as data
from fedrecon.core._tags import tag_of, tagged
from fedrecon.data._sampling import Passes, Poisson, Uniform, Weighted
from fedrecon.errors import RunError
from fedrecon.evaluation import _ranking as ranking
from fedrecon.evaluation._evaluate import model_metrics
from fedrecon.experiment import config as configs
from fedrecon.experiment.analysis.comparability import warnings
from fedrecon.experiment.analysis.runs import methods
from fedrecon.experiment.settings.sections import variants
from fedrecon.experiment.settings.solvers import Relative
from fedrecon.experiment.settings.training import EvaluationSettings
from fedrecon.experiment.storage.fingerprint import FORMAT, as_text, in_format_of
from fedrecon.experiment.storage.fingerprint_format_1 import text, to_format_1
from fedrecon.experiment.storage.fingerprint_parts import describe
from fedrecon.experiment.storage.run_folder import FINGERPRINT, RunFolder
from fedrecon.experiment.training.build import SAMPLINGS
from fedrecon.solvers._gradient import Solver
from fedrecon.solvers._implicit_diff import ImplicitDifferentiation
from fedrecon.solvers._newton import Newton
from fedrecon.solvers._optimizers import optimizer, schedule


def sgd(rate=0.1, **others):
    return optimizer("sgd", learning_rate=rate, **others)


def halved(count):
    return 0.5 / (1 + count)


def fit(objective, params, examples, key, round=None):
    """Somebody's own stage."""
    return params, {}


def warm_up():
    def inner(count):
        return 0.1

    return inner


class Own:
    """Somebody's own stage, that prints itself."""

    def __call__(self, objective, params, examples, key, round=None):
        return params, {}

    def __repr__(self):
        return "Own(3)"


@dataclass(frozen=True)
class EveryThird:
    """Somebody's own split."""

    first: int = 0

    def __call__(self, examples, key):
        return examples, examples


# What the library wrote of the parts below before it had a format number, and what it writes of them since.
FORMATS = Path(__file__).parents[3] / "formats"
FIRST, SECOND = (json.loads((FORMATS / f"fingerprint_{n}.json").read_text()) for n in (1, 2))

MODEL = replace(rating_model(), penalty=lambda global_params, local_params: 0.0)
SCHEDULE = schedule("cosine_decay_schedule", init_value=0.5, decay_steps=100)
FULL = Solver(
    optimizer("adam", learning_rate=1e-3, b1=0.8),
    None,
    3,
    7,
    shuffle=True,
    reduction="sum",
    adaptive_epochs=True,
    schedule=Relative(SCHEDULE, 0.5),
    sequential=True,
)


def made(name, *settings):
    """An algorithm as an experiment file makes it."""
    task = SimpleNamespace(model=MODEL, num_clients=3, served=lambda algorithm: algorithm)
    overrides = [f"algorithm.{x}" for x in (f"name={name}", *settings)]
    return configs.load(None, overrides).algorithm.build_for(task)


LINEAR = "{name='linear', end_value=0.0, transition_steps=9}"
PARTS = {
    "alternate_batches": data.AlternateBatches(),
    "alternate_examples": data.AlternateExamples(),
    "half_batches": data.HalfBatches(4),
    "fraction": data.Fraction(0.1 + 0.2, 1 / 3),
    "fraction_and_rest": data.Fraction(),
    "random_fraction": data.RandomFraction(0.25),
    "by_time": data.ByTime(0.75, "when"),
    "no_split": data.NoSplit(),
    "held_out": data.HeldOut(),
    "own_split": EveryThird(1),
    "uniform": Uniform(5),
    "poisson": Poisson(6),
    "weighted": Weighted(7),
    "passes": Passes(8),
    "model_metrics": model_metrics,
    "ranking": ranking.Ranking(20, (("hr", 10), ("recall", 5)), 9, "movie"),
    "ranking_by_one": ranking.Ranking(20, (("ndcg", 10),)),
    "weighted_mean": WeightedMean(),
    "solver": Solver(sgd(), 5),
    "solver_of_all": FULL,
    "newton": Newton(2, 1e-8),
    "implicit": ImplicitDifferentiation(Newton()),
    "nested": ImplicitDifferentiation(ImplicitDifferentiation(Solver(optax.sgd(0.1), 2, sequential=True))),
    "implicit_own": ImplicitDifferentiation(Own()),
    "fedrecon": fedrecon(
        MODEL, FULL, Solver(sgd(0.5), 4), sgd(SCHEDULE), data.Fraction(), True, uniform, WeightedMean()
    ),
    "fedrecon_of_ones_own": fedrecon(
        MODEL, fit, Solver(sgd(), 5), sgd(halved), EveryThird(), client_weight=np.sum
    ),
    "fedrecon_of_locals": fedrecon(MODEL, Newton(), Solver(sgd(), 5), sgd(warm_up())),
    "fedrecon_of_optax": fedrecon(
        MODEL, Newton(), Solver(optax.adam(1e-3), 5), optax.chain(optax.clip(1.0), optax.sgd(0.1))
    ),
    "fedsim_of_numpy": fedsim(MODEL, Solver(sgd(), 5), Newton(), sgd(), np.float64(0.5), by_examples),
    "full_gradient_implicit": full_gradient(
        MODEL, ImplicitDifferentiation(Newton()), Solver(sgd(), 5), sgd()
    ),
    "optimizers": fedrecon(
        MODEL,
        Newton(),
        Solver(optimizer("sgd", learning_rate=0.1, momentum=0.9, nesterov=True), 5),
        optimizer("adam", learning_rate=0.1, mu_dtype=jnp.float32, eps=1e-05),
    ),
    "yogi_zero": fedrecon(MODEL, Newton(), Solver(sgd(), 5), optimizer("yogi_zero", learning_rate=1.0)),
    "ones_own": replace(
        fedrecon(MODEL, Newton(), Solver(sgd(), 5), sgd()),
        name="algorithm",
        hyperparameters={
            "kind": "mine",
            "text": "it's",
            "one": (1,),
            "none": (),
            "some": [1, (True, None)],
            "big": 10**20,
            "endless": float("inf"),
            "array": np.array([1.5, 2.0]),
            "table": {"a": 1},
            "class": EveryThird,
            "bytes": b"x",
        },
    ),
    "made_fedrecon": made("fedrecon", "reconstruct.kind=newton", "joint=true", "split.name=by_time"),
    "made_fedavg": made("fedavg", "server_optimizer.name=yogi_zero", "client_weight=uniform"),
    "made_finetuning": made("finetuning", "part=['0/item/bias']"),
    "made_finetuned_fedrecon": made("finetuned_fedrecon"),
    "made_full_gradient": made("full_gradient"),
    "made_maml": made("maml", "split.name=none"),
    "made_first_order_maml": made("first_order_maml"),
    "made_reptile": made("reptile"),
    "made_local_only": made("local_only", "fit.batch_size=all"),
    "made_centralized": made("centralized"),
    "made_fedalt": made("fedalt", f"update.optimizer.schedule={LINEAR}"),
    "made_fedsim": made("fedsim", "local_rate=0.5"),
    "made_fedper": made("fedper"),
    "made_fedrep": made("fedrep", "head=['0/item/bias']"),
    "made_lg_fedavg": made("lg_fedavg", "body=['0/item/bias']"),
    "made_ditto": made("ditto", "strength=1e-05"),
    "made_pfedme": made("pfedme"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_described_as_files_have_it(name):
    assert describe(PARTS[name]) == SECOND[name]
    assert json.loads(json.dumps(describe(PARTS[name]), allow_nan=False)) == SECOND[name]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_known_again_in_files_of_format_1(name):
    assert text(describe(PARTS[name])) == FIRST[name]
    assert text(SECOND[name]) == as_text(SECOND[name]) == as_text(FIRST[name]) == FIRST[name]


def test_parts_that_differ_are_described_differently():
    known = [json.dumps(x) for x in SECOND.values()]
    assert len(set(known)) == len(known) == len(PARTS)


def untagged(described):
    """What a description says in words of Python instead of tags."""
    if isinstance(described, list):
        return [x for one in described for x in untagged(one)]
    if not isinstance(described, dict):
        return []
    names = [described["repr"]] if "repr" in described else []
    names += [x for x in [described.get("function")] if x is not None and "/" not in x]
    return names + [x for one in described.values() for x in untagged(one)]


ALGORITHMS = sorted(variants(configs.Config, "algorithm")[1])
SPLITS = sorted(variants(EvaluationSettings, "split")[1])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_of_what_an_experiment_can_ask_for_has_tags(name):
    assert untagged(describe(made(name))) == []


def test_all_splits_samplings_and_scorings_have_tags():
    splits = [configs.load(None, [f"evaluation.split.name={n}"]).evaluation.split.build() for n in SPLITS]
    parts = [*splits, *(sampling(3) for sampling in SAMPLINGS.values())]
    assert len(parts) > 10
    assert [x for part in parts for x in untagged(describe(part))] == []
    assert {x["kind"].partition("/")[0] for x in map(describe, parts)} == {"split", "sampling"}


def test_a_class_can_be_renamed_with_its_fields_and_get_more():
    @tagged("split/of_a_test", names={"beginning": "first"}, later=("end",))
    @dataclass(frozen=True)
    class Renamed:
        beginning: int
        every: int = 3
        end: int = 0

    assert describe(Renamed(1)) == {"kind": "split/of_a_test", "first": 1, "every": 3}
    assert describe(Renamed(1, end=2)) == {"kind": "split/of_a_test", "first": 1, "every": 3, "end": 2}
    assert text(describe(Renamed(1))) == "split/of_a_test(first=1, every=3)"


def test_a_field_that_a_solver_gets_later_leaves_its_old_files_known():
    described = describe(Solver(sgd(), 5, 2))
    assert text(described) == "Solver(sgd(learning_rate=0.1), batch_size=5, epochs=2)"
    assert text(described | {"new": True}) == f"{text(described)[:-1]}, new=True)"


def test_a_tag_is_of_one_class():
    with pytest.raises(ValueError, match="kind must be one that no other has, got 'split/none'"):
        tagged("split/none")(EveryThird)
    assert tag_of(EveryThird) is None


def test_what_extends_a_tagged_class_is_not_taken_for_it():
    class Mine(Uniform):
        pass

    assert describe(Mine(5)) == {"repr": repr(Mine(5))}


def test_what_does_not_print_itself_is_known_again_wherever_it_lies_in_memory():
    class Mine:
        def __init__(self, share):
            self.share = share

    one, other = Mine(0.5), Mine(0.5)
    assert repr(one) != repr(other)
    name = f"{__name__}.{Mine.__qualname__}"
    assert describe(one) == describe(other) == {"repr": name, "attributes": {"share": "0.5"}}
    assert describe(Mine(0.25)) != describe(one)
    assert text(describe(one)) == f"{name}(share=0.5)"


def test_arrays_are_told_apart_where_their_texts_are_not():
    one = np.zeros(5000)
    other = one.copy()
    other[2500] = 1
    assert repr(one) == repr(other)
    assert describe(one) != describe(other)
    assert describe(jnp.asarray(one)) != describe(jnp.asarray(other))


MARKS = {
    "format": FORMAT,
    "algorithm": SECOND["fedrecon"],
    "sampling": SECOND["uniform"],
    "seed": 0,
    "evaluation": {"split": SECOND["fraction"], "every": 5, "scoring": SECOND["ranking"]},
    "clients": {"train": "abc", "kind": "def"},
}
OLD = {
    "algorithm": FIRST["fedrecon"],
    "sampling": FIRST["uniform"],
    "seed": 0,
    "evaluation": {"split": FIRST["fraction"], "every": 5, "scoring": FIRST["ranking"]},
    "clients": {"train": "abc", "kind": "def"},
}


def test_a_fingerprint_is_converted_to_format_1():
    assert to_format_1(MARKS) == OLD
    assert in_format_of(OLD, MARKS, Path(FINGERPRINT)) == OLD
    assert in_format_of(MARKS, MARKS, Path(FINGERPRINT)) == MARKS


@pytest.mark.parametrize("saved", [OLD, MARKS], ids=["format 1", "format 2"])
def test_the_same_run_opens_its_folder_and_leaves_the_file_as_it_is(tmp_path, saved):
    RunFolder(tmp_path, {"name": "a"}, saved).close()
    before = (tmp_path / FINGERPRINT).read_bytes()
    for _ in range(2):
        RunFolder(tmp_path, {"name": "a"}, MARKS).close()
    assert (tmp_path / FINGERPRINT).read_bytes() == before


@pytest.mark.parametrize(
    ("saved", "changes", "message"),
    [
        (
            OLD,
            {"sampling": SECOND["poisson"]},
            f"sampling is {FIRST['uniform']!r} there and {FIRST['poisson']!r} here",
        ),
        (OLD, {"seed": 1}, "seed is 0 there and 1 here"),
        (
            OLD,
            {"algorithm": SECOND["yogi_zero"]},
            f"algorithm is {FIRST['fedrecon']!r} there and {FIRST['yogi_zero']!r} here",
        ),
        (
            MARKS,
            {"sampling": SECOND["poisson"]},
            "sampling.kind is 'sampling/uniform' there and 'sampling/poisson' here",
        ),
        (
            MARKS,
            {
                "algorithm": describe(
                    replace(PARTS["fedrecon"], hyperparameters={"reconstruct": PARTS["solver"]})
                )
            },
            "algorithm.reconstruct.optimizer.kind is 'optimizer/adam' there and 'optimizer/sgd' here",
        ),
        (
            MARKS,
            {"evaluation": {**MARKS["evaluation"], "split": SECOND["fraction_and_rest"]}},
            "evaluation.split.support is 0.30000000000000004 there and 0.5 here",
        ),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path, saved, changes, message):
    RunFolder(tmp_path, {"name": "a"}, saved).close()
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path, {"name": "a"}, {**MARKS, **changes})
    assert str(caught.value) == f"{tmp_path}: this run folder belongs to another configuration: {message}"


@pytest.mark.parametrize("saved", [OLD, MARKS], ids=["format 1", "format 2"])
def test_a_run_of_other_clients_is_refused_by_the_set_that_differs(tmp_path, saved):
    RunFolder(tmp_path, {"name": "a"}, saved).close()
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path, {"name": "a"}, {**MARKS, "clients": {**MARKS["clients"], "train": "xyz"}})
    message = "this run folder belongs to other data: the training clients or their examples are others"
    assert str(caught.value) == f"{tmp_path}: {message}"


def test_a_file_of_a_later_format_is_refused(tmp_path):
    RunFolder(tmp_path, {"name": "a"}, {**MARKS, "format": 3}).close()
    with pytest.raises(RunError) as caught:
        RunFolder(tmp_path, {"name": "a"}, MARKS)
    reason = "format must be at most 2, got 3: a later fedrecon wrote it"
    assert str(caught.value) == f"{tmp_path / FINGERPRINT}: {reason}"


def evaluated_by(path, marks, **changes):
    """A made run whose fingerprint says how it was evaluated."""
    write_run(path, path.name)
    file = path / FINGERPRINT
    evaluation = {**marks["evaluation"], **changes}
    file.write_text(json.dumps({**marks, **json.loads(file.read_text()), "evaluation": evaluation}))
    return path


@pytest.mark.filterwarnings("ignore::fedrecon.errors.UncheckedWarning")
def test_runs_of_both_formats_are_compared(tmp_path):
    old, new = evaluated_by(tmp_path / "old", OLD), evaluated_by(tmp_path / "new", MARKS)
    assert warnings(methods([old, new])) == warnings(methods([new, old])) == []
    other = evaluated_by(tmp_path / "other", MARKS, scoring=SECOND["ranking_by_one"])
    for one in (old, new):
        reason = (
            f"other measures ({FIRST['ranking']} against {FIRST['ranking_by_one']}); they are not paired."
        )
        assert warnings(methods([one, other]))[0] == f"{one.name} and other, test clients: {reason}"
    cut = evaluated_by(tmp_path / "cut", MARKS, split=SECOND["no_split"])
    assert f"({FIRST['fraction']} against NoSplit())" in warnings(methods([old, cut]))[0]
