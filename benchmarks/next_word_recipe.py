"""The next-word round that is timed: its sizes, its data, and the paper's recipe on a small cohort."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedrecon import Algorithm, Clients, Model, Simulation, Solver, Uniform, fedrecon, optimizer
from fedrecon.core import HalfBatches, without_tables
from fedrecon.models.next_word import next_word_lstm

RATE = 0.1


@dataclass(frozen=True)
class Size:
    """How large the round is; the model of the paper, on few clients.

    Attributes:
        words: Shared words.
        buckets: Local rows.
        embedding: Length of an embedding.
        hidden: Units of the LSTM.
        batch: Sentences in a batch.
        length: Tokens of a sentence.
        batches: Of a client; half of them are support.
        epochs: Of the reconstruction.
        side_by_side: Clients of a block.
        blocks: Of a round's clients.
    """

    words: int = 10_000
    buckets: int = 500
    embedding: int = 96
    hidden: int = 670
    batch: int = 16
    length: int = 20
    batches: int = 4
    epochs: int = 5
    side_by_side: int = 4
    blocks: int = 2

    @property
    def rows(self) -> int:
        """Of the table of the shared words."""
        return self.words + 3

    @property
    def classes(self) -> int:
        """Ids that can follow."""
        return self.rows + self.buckets

    @property
    def tokens(self) -> int:
        """Of a batch."""
        return self.batch * self.length

    @property
    def cohort(self) -> int:
        """Clients of a round, and all there are."""
        return self.side_by_side * self.blocks


PAPER = Size()


def model(size: Size, tables: bool = True, precision: Literal["float32", "bfloat16"] = "float32") -> Model:
    """The paper's LSTM.

    Args:
        size: Its own.
        tables: Whether the table of the shared words is declared as one, so that clients work on rows.
        precision: Of the matrix products' factors.
    """
    found = next_word_lstm(
        size.words, size.buckets, embedding=size.embedding, hidden=size.hidden, precision=precision
    )
    return found if tables else without_tables(found)


def clients(size: Size) -> Clients:
    """Of equal length: what is timed is work, and padding is measured on ratings."""
    rng = np.random.default_rng(0)
    shape = (size.cohort, size.batches * size.batch, size.length)
    bucket = np.where(rng.random(shape) < 0.05, rng.integers(size.buckets, size=shape), -1)
    word = np.where(bucket < 0, rng.integers(1, size.words, shape), 0)
    fields = {"word": word, "bucket": bucket, "target": rng.integers(2, size.classes, shape)}
    return Clients.from_arrays(
        {i: {k: x[i].astype(np.int32) for k, x in fields.items()} for i in range(size.cohort)}
    )


def stage(size: Size, epochs: int = 1, sequential: bool = False) -> Solver:
    """Of either phase."""
    return Solver(optimizer("sgd", learning_rate=RATE), size.batch, epochs, sequential=sequential)


def algorithm(size: Size, model: Model, server: str = "yogi_zero", rate: float = 0.1) -> Algorithm:
    """Federated Reconstruction with the paper's recipe.

    Args:
        size: Of the round.
        model: That is trained.
        server: The server's optimizer.
        rate: Its learning rate.
    """
    reconstruct, update = stage(size, size.epochs), stage(size, sequential=True)
    server_optimizer = optimizer(server, learning_rate=rate)
    return fedrecon(model, reconstruct, update, server_optimizer, split=HalfBatches(size.batch))


def simulation(size: Size, algorithm: Algorithm, clients: Clients) -> Simulation:
    """The library's rounds of all clients."""
    return Simulation(algorithm, clients, Uniform(size.cohort), clients_per_block=size.side_by_side)


def starts(size: Size, seed: int = 0) -> Callable[[], np.ndarray]:
    """Draws where a client's local embeddings start, for rounds that are not the library's."""
    rng = np.random.default_rng(seed)
    return lambda: rng.uniform(-0.05, 0.05, (size.buckets, size.embedding)).astype(np.float32)
