"""Next-word prediction: a client is a writer, whose own words have local embeddings."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings.sections import Section, setting
from fedrecon.experiment.settings.solvers import Limit
from fedrecon.experiment.tasks._ratings import Fractions, HeldOutShares, shares_of
from fedrecon.experiment.tasks._spec import TaskConfig, TaskSpec

if TYPE_CHECKING:
    from fedrecon.algorithms._base import Algorithm
    from fedrecon.data._clients import Clients
    from fedrecon.datasets.text._vocabulary import Vocabulary
    from fedrecon.experiment.tasks._task import Task


Precision = Literal["float32", "bfloat16"]
Outputs = Annotated[int, Field(ge=1)] | Literal["same"]


class GeneratedTextSettings(Section):
    """The corpus that is generated where no path is set: clients with words of their own."""

    clients: int = setting(400, "writers", ge=10)
    sentences: int = setting(60, "sentences of a writer", ge=2)
    kinds: int = setting(8, "kinds of words, which say what kind follows", ge=2)
    words: int = setting(25, "shared words of a kind", ge=1)
    own_words: int = setting(1, "words of its own that a writer has of each kind", ge=1)
    private: float = setting(0.25, "share of words that are a writer's own", ge=0, lt=1)


class NextWordData(Section):
    """The texts: which file, how they are cut into words, and the vocabulary."""

    path: str = setting(
        "",
        "JSON Lines, Parquet, SQLite as TensorFlow Federated has it, or a folder of text files; "
        '"chitchat" for the data set of that package; "" generates texts',
    )
    part: str = setting("train", "which part of an SQLite file: its split_name")
    tokenizer: str = setting("whitespace", 'whitespace, pieces, or a function of your own, "module:name"')
    sentences: Limit = setting(1024, 'sentences of a client that are kept, the first in time, or "none"')
    length: int = setting(20, "words of a sentence that are kept, the first ones", ge=1)
    words: int = setting(
        10_000, "shared words: the most frequent of the training clients' training sentences", ge=1
    )
    buckets: int = setting(500, "buckets for all other words, which have local embeddings", ge=1)
    output_buckets: Outputs = setting(
        "same", 'buckets among which other words are predicted; "same" for those of the embeddings'
    )
    vocabulary: str = setting("", 'a run folder whose vocabulary is used; "" counts words')
    unpacked_gib: float = setting(
        2.0, "GiB that a packed file (.gz, Parquet) may unpack to", gt=0, allow_inf_nan=False
    )
    fractions: Fractions = Fractions()
    held_out: HeldOutShares = HeldOutShares()
    generated: GeneratedTextSettings = GeneratedTextSettings()

    @property
    def outputs(self) -> int:
        """Buckets among which other words are predicted."""
        return self.buckets if self.output_buckets == "same" else self.output_buckets


class LSTMSettings(Section):
    """The paper's network; the buckets' embeddings are local."""

    kind: Literal["lstm"] = "lstm"
    embedding: int = setting(96, "length of an embedding", ge=1)
    hidden: int = setting(670, "units of the LSTM", ge=1)

    def build(self, words: int, buckets: int, output_buckets: int, precision: Precision) -> Any:
        from fedrecon.models.next_word._model import next_word_lstm

        return next_word_lstm(
            words,
            buckets,
            output_buckets,
            embedding=self.embedding,
            hidden=self.hidden,
            precision=precision,
        )


class TransformerSettings(Section):
    """A small Transformer; low-rank changes of its attention are local."""

    kind: Literal["transformer"] = "transformer"
    embedding: int = setting(64, "length of an embedding, a multiple of heads", ge=2)
    heads: int = setting(4, "attention heads", ge=1)
    layers: int = setting(2, "layers", ge=1)
    rank: int = setting(4, "rank of the local change of each attention matrix", ge=1)

    def build(self, words: int, buckets: int, output_buckets: int, precision: Precision) -> Any:
        from fedrecon.models.next_word._transformer import next_word_transformer

        return next_word_transformer(
            words,
            buckets,
            output_buckets,
            embedding=self.embedding,
            heads=self.heads,
            layers=self.layers,
            rank=self.rank,
            precision=precision,
        )


class NextWordModel(Section):
    """The network."""

    precision: Precision = setting("float32", "of the factors of matrix products")
    own_words: int = setting(
        0,
        "tokens of its own text that a served client remembers, the last ones, so that its own words can be "
        "predicted, and mixes with the network; 0 for the network alone",
        ge=0,
    )
    network: Annotated[LSTMSettings | TransformerSettings, Field(discriminator="kind")] = setting(
        LSTMSettings(), "the network:"
    )


class NextWord(TaskSpec):
    """Texts by writer, whose next words are predicted."""

    Data = NextWordData
    Model = NextWordModel
    packaged_data = ("chitchat",)

    def build(self, config: TaskConfig) -> "Task":
        """Reads or generates the texts, and builds the model.

        Raises:
            DataError: The texts cannot be read.
        """
        from fedrecon.data._holdout import hold_out
        from fedrecon.datasets.text._dataset import arrange
        from fedrecon.experiment.tasks._task import Task

        data = config.data
        texts, generated_vocabulary, notes = _texts(config)
        shares = shares_of(data.held_out)
        sets, vocabulary = arrange(
            texts,
            seed=config.seed,
            words=data.words,
            buckets=data.buckets,
            output_buckets=data.outputs,
            fractions=shares_of(data.fractions),
            vocabulary=data.vocabulary or generated_vocabulary,
            held_out=shares,
            own_words=config.model.own_words > 0,
        )
        held_out = hold_out(sets["train"], shares)
        train = held_out.pop("train")
        share = _outside(train, vocabulary)
        notes = {"Vocabulary": f"{len(vocabulary.words):,} words, {vocabulary.described()}", **notes}
        notes["Training tokens outside the vocabulary"] = f"{100 * share:.1f}%"
        model = network(config, len(vocabulary.words))
        # The field `bucket` is left out: models may number buckets differently, and whether a word is in one
        # is seen from its `word`.
        scored = "word", "target"
        return Task(
            model,
            train,
            sets.get("validation"),
            sets.get("test"),
            notes,
            held_out,
            scored=scored,
            serving=serving_of(config, len(vocabulary.words)),
        )

    def load_all_clients(self, config: TaskConfig) -> "Clients":
        """The texts of all clients, in words that are numbered as they come.

        Raises:
            DataError: The texts cannot be read.
        """
        return _texts(config)[0]

    def build_to_serve(self, config: TaskConfig, vocabularies: Mapping[str, Sequence[Any]]) -> "Task":
        """The model of a run, and a writer without a sentence.

        Raises:
            DataError: The vocabulary is none of words.
        """
        import numpy as np

        from fedrecon.data._clients import Clients
        from fedrecon.datasets.text._vocabulary import FIELD, Vocabulary
        from fedrecon.experiment.tasks._task import Task

        data = config.data
        vocabulary = Vocabulary.from_named(list(vocabularies.get(FIELD, [])), data.buckets, data.outputs)
        nothing = {"token": np.zeros((0, data.length), np.int32)}
        nobody = Clients.from_columns(["nobody"], [0, 0], nothing, {"token": [""]})
        model = network(config, len(vocabulary.words))
        return Task(
            model,
            vocabulary.encode(nobody, config.model.own_words > 0),
            None,
            None,
            scored=("word", "target"),
            serving=serving_of(config, len(vocabulary.words)),
        )

    def load_in_vocabulary(
        self, config: TaskConfig, vocabularies: Mapping[str, Sequence[Any]]
    ) -> "tuple[Clients, str]":
        """All clients of the data, in the vocabulary of a run, and the share of their tokens outside it.

        Raises:
            DataError: The data cannot be read, or the vocabulary is none of words.
        """
        from fedrecon.datasets.text._vocabulary import FIELD, Vocabulary

        vocabulary = Vocabulary.from_named(
            list(vocabularies.get(FIELD, [])), config.data.buckets, config.data.outputs
        )
        clients = vocabulary.encode(_texts(config)[0], config.model.own_words > 0)
        share = _outside(clients, vocabulary)
        return clients, f"{100 * share:.1f}% of their tokens are outside the run's vocabulary"

    def add_training_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """The clients as they are, since only a vocabulary can make numbers of texts.

        Raises:
            DataError: The clients are not in a vocabulary, as those of `load_in_vocabulary` are.
        """
        from fedrecon.datasets.text._vocabulary import FIELD
        from fedrecon.errors import DataError

        if FIELD not in clients.fields:
            raise DataError(
                f"clients of the task {config.task} must have the field {FIELD!r}, they have "
                f"{list(clients.fields)}; texts are read from the files that data.path can name"
            )
        return clients


TASK = NextWord()


def network(config: TaskConfig, words: int) -> Any:
    """The model of an experiment with that many shared words."""
    data = config.data
    return config.model.network.build(words, data.buckets, data.outputs, config.model.precision)


def serving_of(config: TaskConfig, words: int) -> "Callable[[Algorithm], Algorithm] | None":
    """Makes of an algorithm one whose clients know their own words when they are served; None without them.

    Args:
        config: The configuration of the experiment.
        words: The number of shared words.
    """
    remembered = config.model.own_words
    if not remembered:
        return None
    from fedrecon.models.next_word._own_words import with_own_words

    return lambda algorithm: with_own_words(algorithm, words, tokens=remembered)


def _outside(clients: "Clients", vocabulary: "Vocabulary") -> float:
    """The share of tokens that are outside a vocabulary."""
    outside = tokens = 0
    for piece in clients.pieces():
        target = piece.column("target")
        outside += int((target >= vocabulary.rows).sum())
        tokens += int((target > 0).sum())
    return outside / max(tokens, 1)


def _texts(config: TaskConfig) -> "tuple[Clients, Vocabulary | None, dict[str, str]]":
    """The texts, the vocabulary if they were generated with one, and notes for the reader."""
    data = config.data
    if data.path:
        from fedrecon.datasets.text._prepare import prepare

        sentences = None if data.sentences == "none" else data.sentences
        texts = prepare(
            data.path,
            tokenizer=data.tokenizer,
            sentences=sentences,
            length=data.length,
            part=data.part,
            unpacked_gib=data.unpacked_gib,
        )
        return texts, None, {}
    from fedrecon.datasets.text._synthetic import synthetic
    from fedrecon.datasets.text._vocabulary import Vocabulary

    settings = data.generated.model_dump()
    texts, grammar = synthetic(settings.pop("clients"), length=data.length, seed=config.seed, **settings)
    words = grammar.words()
    vocabulary = Vocabulary(words[: data.words], data.buckets, data.outputs)
    if data.words < len(words):
        # Some shared words of the grammar are outside the vocabulary, for which no bound is known.
        return texts, vocabulary, {}
    best = [f"{grammar.cross_entropy(knows):.3f}" for knows in (True, False)]
    text = f"{best[0]} by who knows the kinds of the writers' own words, {best[1]} by who does not"
    return texts, vocabulary, {"Least cross-entropy of shared words inside a sentence": text}
