"""What a memory of a client's own text is worth, beside the same model without it and a rule of thumb.

    python -m experiments.own_words PATH --out FOLDER

For each seed a small next-word model is trained by `experiments/next_word.toml`, as many rounds as `--rounds`
says, and its test clients are served in three ways: without a memory; by the rule that names the client's
most frequent own word whenever the model says that the next word is outside the vocabulary; and with the
memory (`model.own_words`). At the first seed both evaluations, with and without the memory, are also timed
when they are compiled. The runs lie in FOLDER, and a second call goes on.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedrecon import Algorithm, Mean
from fedrecon._files import write_atomically
from fedrecon.core._types import Batch, Params
from fedrecon.datasets.text._vocabulary import END, FIRST_WORD
from fedrecon.evaluation._evaluate import measure
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.experiment.config import load
from fedrecon.experiment.reporting.tables import markdown
from fedrecon.experiment.training.build import spec_of, task_of
from fedrecon.experiment.training.run import run
from fedrecon.models.next_word._metrics import tokens
from fedrecon.models.next_word._mixture import target_of

OWN = "accuracy_own_word"
METRICS = (
    OWN,
    "accuracy",
    "top_3_accuracy",
    "accuracy_restricted",
    "accuracy_restricted_no_end",
    "accuracy_restricted_after_oov",
    "perplexity",
    "perplexity_restricted",
    "perplexity_restricted_after_oov",
)
NONE, RULE, MEMORY = "no memory", "rule", "memory"


SETTINGS = (
    "data.buckets=1",
    "training.clients_per_round=8",
    "training.clients_per_block=8",
    "algorithm.reconstruct.epochs=2",
)
EXPERIMENT = Path(__file__).with_name("next_word.toml")


class Served(NamedTuple):
    """The test clients of a seed, served in each way.

    Attributes:
        metrics: The metrics by the way of serving, as means over all tokens.
        seconds: Seconds of processor time of an evaluation by the way of serving, once compiled.
    """

    metrics: dict[str, dict[str, float]]
    seconds: dict[str, float]


def beside(plain: Algorithm, memory: Algorithm, words: int) -> Algorithm:
    """What the memory is compared with: the metrics of the model without it, and those of the rule.

    Args:
        plain: The algorithm without a memory.
        memory: The same with `with_own_words`, of whose memory the most frequent own word is taken.
        words: The number of shared words.

    Returns:
        An algorithm whose metrics are those of `plain` and `accuracy_own_word` of the rule.
    """
    rows, view = words + FIRST_WORD, plain.personal_model
    predict: Any = view.predict

    def metrics(g: Params, local: Params, batch: Batch) -> dict[str, Mean]:
        p = jax.nn.softmax(predict(g, local[0], batch)[..., END:], -1)
        # As in the memory's metric: all words outside together against each shared word and the end.
        outside = jnp.sum(p[..., rows - END :], -1) >= jnp.max(p[..., : rows - END], -1)
        target = target_of(batch, rows)
        named = tokens(outside & (target == local[1].own_word[0]), target >= rows)
        return {**view.metrics(g, local[0], batch), OWN: named}

    return replace(memory, personal_model=replace(memory.personal_model, metrics=metrics))


def served(path: str, seed: int, rounds: int, remembered: int, out: Path, times: int) -> Served:
    """Trains a seed, or goes on with it, and serves its test clients in each way.

    Args:
        path: The file of texts.
        seed: The seed of split, start and cohorts.
        rounds: The number of rounds.
        remembered: The tokens that a client remembers.
        out: The folder of the run.
        times: How often the evaluations are timed; 0 for not at all.
    """
    changes = [f"data.path={json.dumps(path)}", f"seed={seed}", f"model.own_words={remembered}"]
    changes += [*SETTINGS, f"training.rounds={rounds}", f"evaluation.every={rounds}"]
    config = load(EXPERIMENT, changes)
    task = task_of(config)
    spec = spec_of(config, task)
    result = run(spec, out=out, title=config.name)
    plain = spec_of(config, replace(task, serving=None)).algorithm
    assert spec.test is not None and spec.split is not None

    def evaluated(algorithm: Algorithm) -> dict[str, float]:
        return numbers(measure(algorithm, result.state, spec.test, split=spec.split, seed=seed))

    others = evaluated(beside(plain, spec.algorithm, config.data.words))
    metrics = {
        NONE: {**others, OWN: 0.0},  # no output of the model stands for one word
        RULE: {OWN: others[OWN]},
        MEMORY: numbers(result.evaluations["test"]),  # the run itself has served them so
    }
    ways = {NONE: plain, MEMORY: spec.algorithm}
    seconds: dict[str, list[float]] = {NONE: [], MEMORY: []} if times else {}
    for _ in range(times + 1 if times else 0):
        for name, taken in seconds.items():
            begun = time.process_time()
            evaluated(ways[name])
            taken.append(time.process_time() - begun)
    # The first time one is compiled.
    return Served(metrics, {name: statistics.median(taken[1:]) for name, taken in seconds.items()})


def numbers(evaluation: Evaluation) -> dict[str, float]:
    """The means over all tokens, by the name of the metric."""
    return {metric: float(value) for metric, value in evaluation.over_examples().items()}


def table(by_seed: dict[int, Served]) -> str:
    """All figures in Markdown: percent and perplexities."""
    rows = [["seed", "served", *METRICS, "evaluation, CPU s"]]
    for seed, (metrics, seconds) in by_seed.items():
        for name, values in metrics.items():
            cells = [_shown(metric, values.get(metric)) for metric in METRICS]
            rows.append([str(seed), name, *cells, f"{seconds[name]:.1f}" if name in seconds else "-"])
    return markdown(rows)


def _shown(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if "perplexity" in metric else f"{100 * value:.2f}"


def main() -> None:
    """Serves the test clients of each seed, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", metavar="PATH", help="a file of texts, as of fedrecon run --data")
    parser.add_argument("--out", type=Path, default=Path("runs/own-words"), metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3, metavar="COUNT", help="default: 3")
    parser.add_argument("--rounds", type=int, default=150, metavar="COUNT", help="default: 150")
    parser.add_argument("--tokens", type=int, default=512, metavar="COUNT", help="remembered; default: 512")
    parser.add_argument("--times", type=int, default=3, metavar="COUNT", help="timed; default: 3")
    options = parser.parse_args()
    by_seed = {}
    for seed in range(options.seeds):
        out = options.out / str(seed)
        by_seed[seed] = served(
            str(Path(options.path).absolute()),
            seed,
            options.rounds,
            options.tokens,
            out,
            0 if seed else options.times,
        )
        write_atomically(options.out / "own_words.md", table(by_seed) + "\n")
    print(table(by_seed))
    for seed, (_, seconds) in by_seed.items():
        if seconds:
            ratio = seconds[MEMORY] / seconds[NONE]
            print(f"seed {seed}: with the memory the evaluation takes {ratio:.2f} times the processor time")


if __name__ == "__main__":
    main()
