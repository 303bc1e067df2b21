"""The numba kernel on the cohorts of a simulation, timed."""

import time
from typing import Any

import numpy as np
from jaxtyping import Int

from benchmarks import numba_round, recipe
from benchmarks.timing import Timed
from fedrecon import Clients
from fedrecon.data import Sampling
from fedrecon.data._columns import offsets_of


class Kernel:
    """Runs the rounds that a simulation would run, on and on.

    Attributes:
        item_factors: The global parameters, `[item, factor]`.
        prepared: Seconds spent on drawing and gathering the cohorts so far.
    """

    def __init__(self, clients: Clients, sampling: Sampling, seed: int = recipe.SEED):
        random = np.random.default_rng(seed)
        shape = (recipe.num_items(clients), recipe.FACTORS)
        scale = recipe.INIT_SCALE
        self.item_factors = random.uniform(-scale, scale, shape).astype(np.float32)
        self._local = random.uniform(-scale, scale, recipe.FACTORS).astype(np.float32)
        self._work = numba_round.scratch(*shape)
        self._clients, self._sampling, self._seed = clients, sampling, seed
        self._starts = clients.offsets[:-1]
        self._items, self._ratings = clients.column("item").astype(np.uint32), clients.column("rating")
        self._done = 0
        self.prepared = 0.0

    def cohort(self, indices: Int[np.ndarray, "row"]) -> tuple[Any, Any, Any]:
        """Offsets, items and ratings of a cohort, as the kernel takes them."""
        counts = self._clients.num_examples[indices]
        offsets = offsets_of(counts)
        rows = np.repeat(self._starts[indices] - offsets[:-1], counts) + np.arange(offsets[-1])
        return offsets, self._items[rows], self._ratings[rows]

    def time(self, count: int) -> Timed:
        """Times the next rounds, of each the kernel alone: its cohort has been drawn and gathered before."""
        start = time.perf_counter()
        numbers = range(self._done, self._done + count)
        lengths = self._clients.num_examples
        cohorts = [self.cohort(self._sampling.indices(n, lengths, self._seed)) for n in numbers]
        self.prepared += time.perf_counter() - start
        seconds = []
        cpu, start = time.process_time(), time.perf_counter()
        for cohort in cohorts:
            begin = time.perf_counter()
            numba_round.round_kernel(self.item_factors, *cohort, self._local, self._work)
            seconds.append(time.perf_counter() - begin)
        self._done += count
        return Timed(seconds, time.perf_counter() - start, time.process_time() - cpu)
