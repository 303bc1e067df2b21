"""Evaluates an algorithm: personalises each client on its support set and tests it on its query set."""

import functools
import warnings
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from fedrecon._kernels.packing import Packed
from fedrecon.algorithms._base import Algorithm, Broadcast, ServerState
from fedrecon.algorithms._building_blocks import subkeys
from fedrecon.core._examples import Examples
from fedrecon.core._mean import Mean
from fedrecon.core._model import Model
from fedrecon.core._splits import AlternateBatches, NoSplit, Split
from fedrecon.core._tags import tagged
from fedrecon.core._types import Params, PRNGKey
from fedrecon.data._clients import Clients
from fedrecon.data._hashing import Purpose, round_keys
from fedrecon.errors import of_kind, whole_number
from fedrecon.evaluation._evaluation import Evaluation
from fedrecon.simulation._batches import Batch, Layout, examples_of, key_of
from fedrecon.simulation._block_plan import Plan, Slot
from fedrecon.simulation._block_shape import evaluation_plan
from fedrecon.simulation._client_state_store import ClientStateStore, current_client_state
from fedrecon.simulation._compilation import engine_options, heavy
from fedrecon.simulation._devices import Devices
from fedrecon.simulation._programs import program_of
from fedrecon.simulation._second_thread import SecondThread, gains_from_second_thread, result_of
from fedrecon.simulation._trained_state import as_trained, warn_unchecked


@runtime_checkable
class Scoring(Protocol):
    """Measures the metrics of a personalised client; hashable, since compiled programs are kept by it."""

    def __call__(
        self,
        model: Model,
        global_params: Params,
        local_params: Params,
        support: Examples,
        query: Examples,
        key: PRNGKey,
    ) -> dict[str, Mean]:
        """The client's metrics by name, scalars; of weight 0 where the query set has no example to score.

        Args:
            model: The view of the model whose local parameters were fitted.
            global_params: The global parameters of the server.
            local_params: The client's local parameters.
            support: The examples to which the local parameters were fitted.
            query: The examples on which the client is scored.
            key: The client's random key, for scorings that draw.
        """


@tagged("scoring/model_metrics")
def model_metrics(
    model: Model,
    global_params: Params,
    local_params: Params,
    support: Examples,
    query: Examples,
    key: PRNGKey,
) -> dict[str, Mean]:
    """Scores a client by the model's own metrics over the query set."""
    metrics = model.metrics(global_params, local_params, query.batch)
    return {name: mean.where(query.mask).sum() for name, mean in metrics.items()}


def evaluation_keys(seed: int, clients: Clients) -> np.ndarray:
    """The numbers of the random keys of clients in an evaluation, uint32 `[client, 2]`.

    Args:
        seed: The seed of the clients' draws.
        clients: The clients that are evaluated.
    """
    return np.asarray(round_keys(seed, Purpose.EVALUATION, 0, clients.keys))


def evaluation_split_of(algorithm: Algorithm) -> Split:
    """The split into support and query set by which an algorithm is evaluated unless another one is given.

    It is the algorithm's own split, so that clients are served in evaluation as in training. An algorithm
    that has none, or one that puts the same examples in both sets, on which nothing could be measured, is
    evaluated by alternate batches of 5.
    """
    split = algorithm.hyperparameters.get("split")
    if not callable(split) or isinstance(split, NoSplit):
        return AlternateBatches(5)
    return cast(Split, split)


def evaluate(
    algorithm: Algorithm,
    state: ServerState,
    clients: Clients,
    *,
    split: Split | None = None,
    seed: int = 0,
    plan: Plan | None = None,
    client_states: ClientStateStore | None = None,
    scoring: Scoring = model_metrics,
    devices: int | None = None,
) -> Evaluation:
    """ReconEval: every client is personalised on its support set and scored on all of its query set.

    Step limits and epochs of a solver hold for the reconstruction; nothing limits the query set. Under JAX's
    distributed runtime every process must call this, and gets all metrics.

    Args:
        algorithm: The algorithm whose `personalize` and `personal_model` are used.
        state: The server's state, whose round decides schedules and adaptive epochs.
        clients: The clients to evaluate, seen or unseen ones. If `train` or `Simulation` returned the
            state, their fields with original ids are renumbered as those of the training clients; examples of
            other ids are left out.
        split: Cuts a client's examples into support and query set, by default as `evaluation_split_of` does.
        seed: The seed of the clients' draws; 0 by default.
        plan: The plan by which the clients are cut into blocks; each of several devices takes as many clients
            as a block has. None, the default, chooses one.
        client_states: The states of seen clients, as in `Simulation.client_states`. A client without an
            entry, such as every unseen one, starts as in its first round. None, the default, lets all
            clients start so.
        scoring: The function that scores a client; by default the metrics of `personal_model`.
        devices: The number of devices of each process that share the clients; None, the default, for all.

    Returns:
        The metrics per client.

    Warns:
        RuntimeWarning: Examples were left out, of ids unknown to the training clients; all metrics are NaN or
            infinite; or no client was evaluated.
        UncheckedWarning: The clients have original ids, and the state does not say by which it was trained.

    Raises:
        TypeError: `algorithm`, `state` or `clients` is of another class, such as global parameters for a
            state.
        DataError: The clients cannot be renumbered as the training clients were.
        ValueError: The seed or the number of devices is not a whole number, or there are not so many devices.
    """
    of_kind(Algorithm, algorithm=algorithm)
    of_kind(ServerState, state=state)
    of_kind(Clients, clients=clients)
    warn_unchecked(clients, state)
    evaluation = measure(
        algorithm,
        state,
        clients,
        split=evaluation_split_of(algorithm) if split is None else split,
        seed=seed,
        plan=plan,
        client_states=client_states,
        scoring=scoring,
        devices=devices,
    )
    for text in evaluation.problems("clients") if len(clients) else ():
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return evaluation


def measure(
    algorithm: Algorithm,
    state: ServerState,
    clients: Clients,
    *,
    split: Split,
    seed: int = 0,
    plan: Plan | None = None,
    client_states: ClientStateStore | None = None,
    scoring: Scoring = model_metrics,
    devices: int | None = None,
) -> Evaluation:
    """`evaluate` without its warnings, for callers that report problems in their own way.

    Args:
        algorithm: The algorithm whose `personalize` and `personal_model` are used.
        state: The server's state, whose round decides schedules and adaptive epochs.
        clients: The clients to evaluate.
        split: Cuts a client's examples into support and query set.
        seed: The seed of the clients' draws; 0 by default.
        plan: The plan by which the clients are cut into blocks; None, the default, chooses one.
        client_states: The states of seen clients; None, the default, lets all start as in their first round.
        scoring: The function that scores a client; by default the metrics of `personal_model`.
        devices: The number of devices of each process that share the clients; None, the default, for all.
    """
    seed = whole_number("seed", seed)
    clients = as_trained(clients, state)
    layout = Layout(algorithm.personal_model, clients, state.global_params, (split,))
    large = heavy(state.global_params, algorithm.model.tables)
    plan = plan or evaluation_plan(algorithm, state.global_params, clients.num_examples)
    keys = evaluation_keys(seed, clients)
    known = client_states if client_states is not None and client_states.knows(clients.keys) else None
    spread = Devices.first(devices)
    now = spread.everywhere((state.global_params, state.round))
    positions, block_sums = [], []
    helper = SecondThread() if len(spread) == 1 and gains_from_second_thread(algorithm) else None
    for slot, chosen in plan.fitting(clients.num_examples):
        wide = slot._replace(blocks=1, clients=slot.clients * len(spread))
        for start in range(0, len(chosen), wide.clients):
            block = chosen[start : start + wide.clients]
            own, mine = wide.part(block, *spread.part)
            batch = layout.batch(own, mine, keys[mine], cut=())
            if known is not None:
                stored = known.get(clients.keys[mine], own.clients)
                batch = batch._replace(client_state=jax.tree.map(lambda x: x[None], stored))
            batch = spread.cut(batch)
            program = program_of(
                _evaluate_block, algorithm, split, scoring, wide, spread, options=engine_options(large)
            )
            if helper is not None and start // wide.clients % 2:  # the first of a slot compiles its program
                sums = helper.call(program, *now, batch)
            else:
                sums = spread.settled(program(*now, batch))
            positions.append(block)
            block_sums.append((len(block), sums))
    return Evaluation(clients.ids, _joined(positions, block_sums, len(clients)))


def _evaluate_block(
    algorithm: Algorithm,
    split: Split,
    scoring: Scoring,
    slot: Slot,
    devices: Devices,
    global_params: Params,
    round: Int[Array, ""],
    block: Batch,
) -> Packed:
    def client(global_params: Params, round: Int[Array, ""], batch: Batch) -> Packed:
        key = key_of(batch.key)
        support, query = split(examples_of(batch.data, batch.count, slot.length), *subkeys(key, 1))
        client_state = current_client_state(algorithm, global_params, batch.client_state, key)
        local = algorithm.personalize(Broadcast(global_params, round), client_state, support, key)
        metrics = scoring(algorithm.personal_model, global_params, local, support, query, key)
        for name, mean in metrics.items():
            for x in mean:
                if jnp.shape(x) != ():
                    raise ValueError(
                        f"metric {name!r} of a scoring must be a scalar Mean for each client, got the shape "
                        f"{jnp.shape(x)}: sum it over the client's examples"
                    )
        return Packed.of(jax.tree.map(jnp.asarray, metrics))

    def clients(global_params: Params, round: Int[Array, ""], block: Batch) -> Packed:
        one = functools.partial(client, global_params, round)
        return jax.vmap(one)(jax.tree.map(lambda x: jnp.asarray(x)[0], block))

    return devices.each(clients)(global_params, round, block)


def _joined(positions: list[Any], block_sums: list[Any], num_clients: int) -> dict[str, Mean]:
    fetched: list[dict[str, Mean]] = [result_of(sums).columns() for _, sums in block_sums]
    joined: dict[str, Mean] = {}
    for name in fetched[0] if fetched else ():
        total: Any = np.zeros(num_clients)
        weight: Any = np.zeros(num_clients)
        for where, (size, _), sums in zip(positions, block_sums, fetched, strict=True):
            total[where], weight[where] = sums[name].total[:size], sums[name].weight[:size]
        joined[name] = Mean(total, weight)
    return joined
