"""Table 2 of the paper on another text, with a model small enough for two cores.

    python -m experiments.next_word_table PATH --out FOLDER

Each approach is trained once, and evaluated after each of `--rounds` with every way of serving it, or with
the first way alone (`--plain`). What is done is kept in `FOLDER/rows.json`, so that a second call goes on: a
row is trained anew if it lacks a round or a way of serving that is asked for. `--rows` takes some approaches
only, `--others` those of the library that the paper's table lacks, `--seed` other splits, starts and cohorts.
A folder is for one text.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from fedrecon import (
    AlternateBatches,
    NoSplit,
    Simulation,
    Solver,
    Uniform,
    evaluate,
    fedavg,
    fedrecon,
    finetuning,
    full_gradient,
    local_only,
    optimizer,
)
from fedrecon._files import write_atomically
from fedrecon.algorithms import (
    centralized,
    ditto,
    fedalt,
    fedrep,
    fedsim,
    first_order_maml,
    lg_fedavg,
    maml,
    pfedme,
    reptile,
)
from fedrecon.core import HalfBatches
from fedrecon.data import in_batches, numbered
from fedrecon.datasets.text import Vocabulary, prepare
from fedrecon.datasets.text._dataset import FRACTIONS, arrange
from fedrecon.experiment.training.run_spec import digest
from fedrecon.models.next_word import next_word_lstm

SENTENCES, BATCH, COHORT, BLOCK = 64, 16, 8, 8
EMBEDDING, HIDDEN = 48, 128
LOCAL_EPOCHS = 2
FAST = 30.0  # a learning rate of local rows
ALONE_EPOCHS = 10  # of a client that has no other's help
METRICS = (
    "accuracy",
    "perplexity",
    "accuracy_no_oov",
    "accuracy_no_oov_no_end",
    "accuracy_restricted",
    "accuracy_restricted_no_end",
    "perplexity_restricted",
    "accuracy_restricted_after_oov",
    "perplexity_restricted_after_oov",
    "top_3_accuracy",
    "oov",
)


class Training(NamedTuple):
    """What is trained once: its name, its number of buckets, the algorithm, the ways to serve it, the model's
    precision, its number of output buckets (None for as many), whether it takes the examples of all clients
    in mini-batches, and beside the model how many clients these are.
    """

    name: str
    buckets: int
    algorithm: Callable[..., Any]
    served: dict[str, Callable[[Any], Any]]
    precision: Literal["float32", "bfloat16"] = "float32"
    output_buckets: int | None = None
    pooled: bool = False


def stage(rate: float, epochs: int = 1, sequential: bool = True) -> Solver:
    """Gradient descent in the experiment's batches."""
    return Solver(optimizer("sgd", learning_rate=rate), BATCH, epochs, max_steps=100, sequential=sequential)


def trainings() -> Iterator[Training]:
    """The approaches; the paper's table first."""
    server = optimizer("yogi_zero", learning_rate=0.1)
    reconstruct, update, tune = (
        stage(0.1, LOCAL_EPOCHS, sequential=False),
        stage(0.3),
        stage(0.1, LOCAL_EPOCHS),
    )
    alternate = AlternateBatches(BATCH)
    itself = {"": lambda a: a}

    def reconstructed(split: Any = alternate, joint: bool = False) -> Callable[[Any], Any]:
        return lambda model: fedrecon(model, reconstruct, update, server, split=split, joint=joint)

    yield Training("FedRecon, 1 bucket", 1, reconstructed(), itself)
    # The input side alone: the question and the choice are those of 1 bucket.
    yield Training("FedRecon, 500 buckets in, 1 out", 500, reconstructed(), itself, output_buckets=1)
    tuned = {"": itself[""], " + fine-tuning": lambda a: finetuning(a, tune)}
    yield Training("FedRecon, 500 buckets", 500, reconstructed(), tuned)
    yield Training(
        "FedYogi",
        500,
        lambda model: fedavg(model, update, server),
        {
            "": itself[""],
            ", OOV fine-tuning": lambda a: finetuning(a, tune, part=("1/embedding",)),
            ", full fine-tuning": lambda a: finetuning(a, tune),
        },
    )
    yield Training("FedYogi, 1 bucket", 1, lambda model: fedavg(model, update, server), itself)
    # A row's gradient is a mean over all tokens of a batch, few of which are its own.
    fast, quick = stage(FAST, LOCAL_EPOCHS, sequential=False), stage(FAST, LOCAL_EPOCHS)
    yield Training(
        "FedRecon, 500 buckets, fast",
        500,
        lambda model: fedrecon(model, fast, update, server, split=alternate),
        itself,
    )
    yield Training(
        "FedYogi, fast",
        500,
        lambda model: fedavg(model, update, server),
        {" OOV fine-tuning": lambda a: finetuning(a, quick, part=("1/embedding",))},
    )
    yield Training("FedRecon, 500 buckets, bfloat16", 500, reconstructed(), itself, "bfloat16")
    for buckets in (1, 500):
        yield Training(f"FedRecon, joint, {buckets} bucket(s)", buckets, reconstructed(joint=True), itself)
        yield Training(f"FedRecon, no split, {buckets} bucket(s)", buckets, reconstructed(NoSplit()), itself)


def others() -> Iterator[Training]:
    """The library's other approaches, by the same stages."""
    server = optimizer("yogi_zero", learning_rate=0.1)
    together, update, tune = (
        stage(0.1, LOCAL_EPOCHS, sequential=False),
        stage(0.3),
        stage(0.1, LOCAL_EPOCHS),
    )
    alternate = AlternateBatches(BATCH)
    # Drawn to the global parameters by 15, it diverges at 0.1.
    near = stage(0.05, LOCAL_EPOCHS)
    # Beside the model's own local rows: how often this speaker says a word; all that it reads words by.
    head, body = ("1", "0/output/bias"), ("1", "0/embedding")
    approaches: dict[str, Callable[..., Any]] = {
        "FedAlt": lambda model: fedalt(model, together, update, server),
        "FedSim": lambda model: fedsim(model, update, together, server),
        "FedRep, biases of the output local too": lambda model: fedrep(
            model, together, update, server, head=head
        ),
        "LG-FedAvg, all embeddings local": lambda model: lg_fedavg(
            model, update, together, server, body=body
        ),
        "First-order MAML": lambda model: first_order_maml(model, tune, update, server, alternate),
        "Reptile": lambda model: reptile(model, tune, server),
        "Ditto": lambda model: ditto(model, update, tune, server),
        "pFedMe": lambda model: pfedme(model, near, update, server),
        "MAML": lambda model: maml(model, tune, update, server, alternate),
        "Full gradient": lambda model: full_gradient(model, together, update, server, alternate),
        "Local only": lambda model: local_only(model, stage(0.3, ALONE_EPOCHS)),
    }
    for name, algorithm in approaches.items():
        yield Training(name, 500, algorithm, {"": lambda a: a})

    def of_all(model: Any, clients: int) -> Any:
        return centralized(model, clients, together, server)

    yield Training("Centralised", 500, of_all, {"": lambda a: a}, pooled=True)


def row(training: Training, texts: Any, words: int, rounds: list[int], seed: int) -> dict[str, Any]:
    """Trains, and evaluates on all test clients after each of these rounds."""
    started = time.process_time()
    sets, vocabulary = arrange(
        texts, seed=seed, words=words, buckets=training.buckets, output_buckets=training.output_buckets
    )
    model = next_word_lstm(
        len(vocabulary.words),
        vocabulary.buckets,
        vocabulary.output_buckets,
        embedding=EMBEDDING,
        hidden=HIDDEN,
        precision=training.precision,
    )
    train, test = sets["train"], sets["test"]
    pooled: tuple[int, ...] = ()
    if training.pooled:
        pooled = (len(train),)
        train, test = in_batches(numbered(train), SENTENCES, seed), numbered(test, seen=False)
    algorithm = training.algorithm(model, *pooled)
    simulation = Simulation(algorithm, train, Uniform(COHORT), seed=seed, clients_per_block=BLOCK)
    state, sent, found = simulation.init(), [], {}
    for done in simulation.rounds(state, max(rounds)):
        state = done.state
        sent.append((done.bytes_down + done.bytes_up) / done.clients)
        if done.number % 10 == 0:
            jax.block_until_ready(state)
            spent = time.process_time() - started
            print(f"{training.name}, round {done.number}, {spent:.0f} s of CPU", flush=True)
        if done.number in rounds:
            found[str(done.number)] = tested(training, algorithm, state, test)
    return {"cpu_seconds": time.process_time() - started, "bytes": sum(sent) / len(sent), "found": found}


def tested(training: Training, algorithm: Any, state: Any, test: Any) -> dict[str, dict[str, float]]:
    """The metrics over all tokens of the test clients, for each way of serving."""
    found = {}
    for served, way in training.served.items():
        measured = evaluate(way(algorithm), state, test, split=HalfBatches(BATCH)).over_examples()
        found[training.name + served] = {m: float(measured[m]) for m in METRICS}
        print(training.name + served, found[training.name + served], flush=True)
    return found


def recurrence(texts: Any, words: int, seed: int) -> float:
    """Of the test clients' query tokens outside the vocabulary, the share whose word the support set has."""
    sets = texts.split(FRACTIONS, seed)
    vocabulary = Vocabulary.most_frequent(sets["train"], words, 1)
    lexicon = texts.vocabularies["token"]
    unknown = np.array([bool(word) and not vocabulary.row_of(word) for word in lexicon])
    again = total = 0
    for client in sets["test"].ids.tolist():
        tokens = sets["test"][client]["token"]
        support = -(-len(tokens) // (2 * BATCH)) * BATCH
        own = tokens[support:][unknown[tokens[support:]]]
        again, total = again + int(np.isin(own, tokens[:support]).sum()), total + own.size
    return again / max(total, 1)


def identity(texts: Any) -> str:
    """Tells texts apart, by their clients, sentences and words."""
    words = "\0".join(texts.vocabularies["token"]).encode(errors="backslashreplace")
    return hashlib.blake2b(digest(texts).encode() + words, digest_size=8).hexdigest()


def whole(client_state: dict[str, Any], training: Training, rounds: list[int]) -> bool:
    """Whether a kept row has all of these rounds, and in each all ways of serving."""
    wanted = {training.name + way for way in training.served}
    return all(wanted <= set(client_state["found"].get(str(number), {})) for number in rounds)


def joined(client_state: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """A row made anew, with what the kept one has beside it."""
    found = dict(client_state["found"])
    for number, served in made["found"].items():
        found[number] = {**found.get(number, {}), **served}
    return {**made, "found": found}


def read(file: Path, data: str) -> dict[str, Any]:
    """The rows that are kept.

    Raises:
        SystemExit: They are of other data.
    """
    rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if any(client_state.get("data", data) != data for client_state in rows.values()):
        raise SystemExit(f"{file}: its rows are of other data; give another folder with --out")
    unmarked = sum("data" not in client_state for client_state in rows.values())
    if unmarked:
        print(f"{file}: {unmarked} rows do not say what data they are of; they are taken to be of these")
    return rows


def table(rows: dict[str, Any]) -> str:
    """All rows in Markdown: percent, perplexities, and bytes down and up per client and round."""
    head = ["words", "seed", "rounds", "approach", *METRICS, "kB per client and round"]
    lines = [head, ["---"] * len(head)]
    for key, done in rows.items():
        words, _, seed, _ = key.split("/", 3)
        for rounds, served in done["found"].items():
            for name, found in served.items():
                cells = [_shown(m, found.get(m)) for m in METRICS]
                lines.append([words, seed, rounds, name, *cells, f"{done['bytes'] / 1e3:,.0f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _shown(metric: str, value: float | None) -> str:
    """A metric in the table; older rows lack some."""
    if value is None:
        return "-"
    return f"{value:.1f}" if "perplexity" in metric else f"{100 * value:.1f}"


def main() -> None:
    """Trains what is asked for and not done, and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, nargs="+", default=[150])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--plain", action="store_true", help="the first way of serving alone")
    parser.add_argument("--others", action="store_true", help="the library's other approaches instead")
    parser.add_argument("--rows", nargs="+", help="names of trainings; default: all")
    options = parser.parse_args()
    offered = list(others() if options.others else trainings())
    names = [training.name for training in offered]
    unknown = sorted(set(options.rows or []) - set(names))
    if unknown:
        parser.error(f"--rows must be some of {names}, got {unknown}")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "rows.json"
    texts = prepare(options.data, sentences=SENTENCES)
    data = identity(texts)
    rows = read(file, data)
    for words in options.words:
        share = 100 * recurrence(texts, words, options.seed)
        print(
            f"{words:,} words: {share:.1f}% of the query tokens outside them are in the client's support set"
        )
        for training in offered:
            if options.rows is not None and training.name not in options.rows:
                continue
            if options.plain:
                training = training._replace(served=dict([next(iter(training.served.items()))]))
            key = f"{words}/{max(options.rounds)}/{options.seed}/{training.name}"
            client_state = rows.get(key, {"found": {}})
            if not whole(client_state, training, options.rounds):
                made = row(training, texts, words, options.rounds, options.seed)
                rows[key] = joined(client_state, {**made, "data": data})
                write_atomically(file, json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
