"""The specification of a training run, and the fingerprint that tells runs apart."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from fedrecon.algorithms._base import Algorithm
from fedrecon.core._examples import Examples
from fedrecon.core._splits import HeldOut
from fedrecon.data._clients import Clients
from fedrecon.data._shards.digests import PREFIX, digest_of_set, has_digests
from fedrecon.errors import of_kind, store_whole_numbers, whole_number
from fedrecon.evaluation._evaluate import Scoring, model_metrics
from fedrecon.evaluation._metric_names import DERIVED
from fedrecon.evaluation._selection import FORMS, Criterion, criterion, is_selection, metric_in
from fedrecon.experiment.reporting.result import RESULT_KEYS
from fedrecon.experiment.storage import fingerprint_format_1
from fedrecon.experiment.storage.fingerprint import FORMAT
from fedrecon.experiment.storage.fingerprint_parts import describe
from fedrecon.experiment.storage.metrics_log import SEEN, STANDARD_EVAL
from fedrecon.privacy._guarantee import UserLevelDP
from fedrecon.simulation._trained_state import mapped

START = "initial_global_params"
# Characters of the name of a set of clients, which becomes a part of the names of files.
LONGEST_NAME = 100


@dataclass(frozen=True, eq=False)
class RunSpec:
    """The specification of a training run.

    Attributes:
        algorithm: The algorithm that is trained.
        clients: The training clients.
        rounds: The number of rounds, at least 1.
        sampling: The sampling that draws the cohort of each round.
        seed: The seed of all draws.
        validation: Unseen clients to evaluate while training, by the name of their split.
        test: Unseen clients to evaluate once at the end; None for none.
        held_out: Training clients with marked examples that are not trained on: `"validation"` to evaluate
            while training, `"test"` at the end. The default is none.
        split: The split of unseen clients' examples into support and query set in evaluation.
        evaluate_every: Rounds between evaluations; the last round is always evaluated.
        select: Whether the test clients are evaluated with the `"final"` parameters, or with those of the
            `"best"` evaluation of the first set that is evaluated while training; see `train`.
        checkpoint_every: Rounds between checkpoints; the last round always has one.
        initial_global_params: The global parameters before the first round; None, the default, for those that
            the model initialises.
        scoring: The function that measures evaluated clients; by default the model's own metrics.
        clients_per_block: The number of vectorised clients in training; None, the default, leaves it to the
            plan.
        measured: The sets of clients, each reduced to the fields that runs of other algorithms have too,
            whose digests are compared between runs; `{}`, the default, for all fields of all sets.
        baselines: Measures what predictors that cost nothing would reach on the sets that are evaluated at
            the end, see `Task.baselines`; None, the default, for none.
        settings_from_data: Settings of the model whose values the training clients decided, by their names,
            which checkpoints hold; by default none.
        settings: The settings to write as the run folder's configuration; `{}`, the default, for the
            attributes above.
    """

    algorithm: Algorithm
    clients: Clients
    rounds: int
    sampling: Any
    seed: int
    validation: Mapping[str, Clients]
    test: Clients | None
    split: Any
    evaluate_every: int
    select: str
    checkpoint_every: int
    initial_global_params: Any = None
    held_out: Mapping[str, Clients] = field(default_factory=dict)
    scoring: Scoring = model_metrics
    clients_per_block: int | None = None
    measured: Mapping[str, Clients] = field(default_factory=dict)
    baselines: Scoring | None = None
    settings_from_data: Mapping[str, float | str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        of_kind(Algorithm, algorithm=self.algorithm)
        of_kind(Clients, clients=self.clients)
        for name, clients in self.evaluated.items():
            of_kind(Clients, **{f"the clients {name!r}": clients})
        if not len(self.clients):
            raise ValueError("the training clients must be at least 1, got 0")
        store_whole_numbers(self, 1, "rounds", "evaluate_every", "checkpoint_every")
        store_whole_numbers(self, 1, "clients_per_block", optional=True)
        object.__setattr__(self, "seed", whole_number("seed", self.seed))
        self._number_alike()
        if not is_selection(self.select):
            raise ValueError(f"select must be {FORMS}, got {self.select!r}")
        if self.selects_best and not self.while_training():
            raise ValueError(f"select={self.select!r} needs clients to evaluate, got none")
        if self.algorithm.privacy is not None:
            self._check_privacy(self.algorithm.privacy)
        for name, clients in self.evaluated.items():
            if not len(clients):
                raise ValueError(f"the clients to evaluate must be at least 1, got 0 in {name!r}")
        for name in self.validation:
            if name in RESULT_KEYS:
                raise ValueError(
                    f"clients that are evaluated while training cannot be called {name!r}: result.json has "
                    f"another value of that name"
                )
            if name in ("train", "test") or name.startswith(SEEN):
                raise ValueError(f"clients that are evaluated while training cannot be called {name!r}")
            is_named = bool(name.strip()) and len(name) <= LONGEST_NAME and name.isprintable()
            if not is_named or name.endswith(f"-{STANDARD_EVAL}"):
                raise ValueError(
                    f"the name of clients that are evaluated must have 1 to {LONGEST_NAME} characters, "
                    f"all of them printable, and not end in '-{STANDARD_EVAL}', got {name!r}"
                )
        for name in self.held_out:
            if name not in ("validation", "test"):
                raise ValueError(f"held-out examples must be called 'validation' or 'test', got {name!r}")

    def _check_privacy(self, privacy: UserLevelDP) -> None:
        privacy.check(sampling=self.sampling, rounds=self.rounds, num_clients=len(self.clients))
        if self.select != "final":
            raise ValueError(
                f"select must be 'final' for a private algorithm, got {self.select!r}: the ledger does not "
                f"cover the choice of a round by evaluations"
            )
        given = self.initial_global_params is not None and privacy.earlier is None
        if given and START not in privacy.public_inputs:
            raise ValueError(
                f"public_inputs must name the source of {START!r} where a private algorithm starts from "
                f"given parameters, got {sorted(privacy.public_inputs)}"
            )

    def _number_alike(self) -> None:
        """Renumbers the clients to evaluate as those to train on, whatever their own vocabularies are."""
        vocabularies = self.clients.vocabularies
        for sets in ("validation", "held_out"):
            alike = {name: mapped(x, vocabularies, repr(name)) for name, x in getattr(self, sets).items()}
            object.__setattr__(self, sets, alike)
        if self.test is not None:
            object.__setattr__(self, "test", mapped(self.test, vocabularies, "'test'"))
        # The property was read before, with the clients as they were.
        self.__dict__.pop("evaluated", None)

    @functools.cached_property
    def evaluated(self) -> dict[str, Clients]:
        """All clients that are evaluated, by the name of their set."""
        test = {} if self.test is None else {"test": self.test}
        return {**self.validation, **test, **{SEEN + name: x for name, x in self.held_out.items()}}

    def warnings(self) -> list[str]:
        """Warnings about the specification, each a sentence without its full stop; none if it is fine."""
        if self.algorithm.exchanges == "examples":
            return []  # its training clients are mini-batches, whose names stand for nobody
        unseen = {name: clients for name, clients in self.evaluated.items() if not name.startswith(SEEN)}
        counts = {name: int(np.isin(x.keys, self.clients.keys).sum()) for name, x in unseen.items()}
        return [
            f"{count:,} of the {len(unseen[name]):,} clients of {name!r} are trained on as well: their "
            f"metrics do not tell how well unseen clients are served"
            for name, count in counts.items()
            if count
        ]

    @property
    def _sets(self) -> dict[str, Clients]:
        return {"train": self.clients, **self.evaluated}

    def compare_with(self, digests: Mapping[str, str]) -> None:
        """Makes the digests of its clients of the kinds of earlier ones, with which they are compared.

        Args:
            digests: What an earlier call noted, by the name of the set.
        """
        self.__dict__["_kinds"] = dict(digests)
        self.__dict__.pop("_digests", None)

    @functools.cached_property
    def _digests(self) -> dict[str, str]:
        kinds = self.__dict__.get("_kinds", {})
        return {name: digest(clients, kinds.get(name)) for name, clients in self._sets.items()}

    @functools.cached_property
    def vocabularies(self) -> str:
        """A digest of the original ids in the clients' fields, 16 hexadecimal digits."""
        return ids_digest(self.clients.vocabularies)

    def while_training(self) -> list[str]:
        """Names of the sets that are evaluated while training; the first decides which round is the best."""
        return [name for name in self.evaluated if name not in self.at_the_end()]

    def at_the_end(self) -> list[str]:
        """Names of the sets that are evaluated once, at the end."""
        return [name for name in ("test", SEEN + "test") if name in self.evaluated]

    @property
    def selects_best(self) -> bool:
        """Whether the test clients are evaluated with the parameters of the best evaluation."""
        return self.select != "final"

    @functools.cached_property
    def criterion(self) -> Criterion | None:
        """The metric that decides which evaluation is the best; None where the final ones are selected.

        Raises:
            ValueError: The metric is not measured, or it is not known which way it is better.
        """
        if not self.selects_best:
            return None
        return criterion(metric_in(self.select), self.metric_names(), "select", "best:")

    def metric_names(self) -> list[str]:
        """Names of the metrics of the first set of clients that is evaluated while training."""
        # The scoring is traced with a blank example, which tells its metrics and computes nothing.
        model, clients = self.algorithm.personal_model, self.evaluated[self.while_training()[0]]
        one = Examples({name: clients.blank(name, 1) for name in clients.fields}, np.ones(1, bool))

        def score(key: Any) -> Any:
            shared = model.init_global(key)
            return self.scoring(model, shared, model.init_local(shared, key), one, one, key)

        names = list(jax.eval_shape(score, jax.random.key(0)))
        return names + [name for name, (source, _) in DERIVED.items() if source in names]

    def counts(self) -> dict[str, dict[str, int]]:
        """The numbers of clients and of their examples, by the name of their set: for readers of messages.

        Those of examples of a private run's training clients are left out: they are exact.
        """
        counts = counts_of(self._sets)
        if self.algorithm.privacy is not None:
            for name, count in counts.items():
                if name == "train" or name.startswith(SEEN):
                    del count["examples"]
        return counts

    def split_of(self, name: str) -> Any:
        """The split into support and query set in the evaluation of a set of clients, by its name."""
        return HeldOut() if name.startswith(SEEN) else self.split

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the run: JSON values that differ between runs that compute something else."""
        return {
            "format": FORMAT,
            "algorithm": describe(self.algorithm),
            "sampling": describe(self.sampling),
            "seed": self.seed,
            "rounds": self.rounds,
            "evaluation": {
                "split": describe(self.split),
                "every": self.evaluate_every,
                "select": self.select,
                "scoring": describe(self.scoring),
            },
            "clients": self._digests,
            "initial_global_params": arrays_digest(self.initial_global_params),
        }

    def examples(self) -> dict[str, str]:
        """A digest of each set of clients, equal in runs of any algorithm that measure the same examples."""
        digests, sets = self._digests, self._sets
        return {
            name: digests[name] if set(x.fields) == set(sets[name].fields) else digest(x, digests[name])
            for name, x in (self.measured or sets).items()
        }

    def configuration(self) -> Mapping[str, Any]:
        """The settings to write in the run folder."""
        if self.settings:
            return self.settings
        # Format 1 has a line of text for each part, which a person can read.
        lines = fingerprint_format_1.to_format_1(self.fingerprint())
        return {
            **{name: lines[name] for name in ("algorithm", "sampling", "seed", "rounds", "evaluation")},
            "checkpoint_every": self.checkpoint_every,
        }


def counts_of(sets: Mapping[str, Clients]) -> dict[str, dict[str, int]]:
    """The numbers of clients and of their examples, by the name of their set."""
    return {
        name: {"clients": len(clients), "examples": int(np.sum(clients.num_examples, dtype=np.int64))}
        for name, clients in sets.items()
    }


def digest(clients: Clients, like: str | None = None) -> str:
    """A digest of clients' keys and examples: 16 hexadecimal digits.

    For clients of a folder of shards, whose index has digests of each client's examples, it is made of those
    without a look at the examples, and begins with `"by-client:"`.

    Args:
        clients: The clients.
        like: A digest to compare with, whose kind is made; None, the default, for the kind of the clients.
    """
    if has_digests(clients) if like is None else like.startswith(PREFIX):
        return digest_of_set(clients)
    state = hashlib.blake2b(digest_size=8)
    state.update(np.ascontiguousarray(clients.keys).tobytes())
    state.update(np.asarray(clients.num_examples, np.int64).tobytes())
    for name in sorted(clients.fields):
        blank = clients.blank(name, 0)
        # Doubles as programs get them: their further digits decide the examples' order, and are seen in it.
        dtype = np.dtype(np.float32) if blank.dtype == np.float64 else blank.dtype
        shape = (int(clients.num_examples.sum()), *blank.shape[1:])
        state.update(f"{name} {dtype} {shape}".encode())
        for piece in clients.pieces():
            state.update(np.ascontiguousarray(piece.column(name), dtype).data)
    return state.hexdigest()


def ids_digest(vocabularies: Mapping[str, Any]) -> str:
    """A digest of the original ids of every field, in their order, 16 hexadecimal digits."""
    lists = {name: np.asarray(ids).tolist() for name, ids in vocabularies.items()}
    return hashlib.blake2b(json.dumps(lists, sort_keys=True).encode(), digest_size=8).hexdigest()


def arrays_digest(tree: Any) -> str:
    """A digest of the arrays of a pytree and their paths, 16 hexadecimal digits; `""` for None."""
    if tree is None:
        return ""
    state = hashlib.blake2b(digest_size=8)
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        state.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        state.update(array.tobytes())
    return state.hexdigest()
