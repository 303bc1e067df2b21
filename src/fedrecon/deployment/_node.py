"""A node: the clients of one process, and their answers to a server's messages."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fedrecon.algorithms._base import Algorithm, Update
from fedrecon.deployment._client import Client, client_state_like
from fedrecon.deployment._messages import (
    Address,
    broadcast_from,
    refusal_message,
    request_message,
    state_from,
    state_message,
    update_message,
)
from fedrecon.deployment._refusals import Refusal, RefusedError
from fedrecon.deployment._store import Store
from fedrecon.deployment._wire import MAX_BYTES, Message, decode, encode
from fedrecon.errors import of_kind
from fedrecon.serving._personalization import block_lengths
from fedrecon.simulation._batches import key_of
from fedrecon.simulation._trained_state import in_run_vocabularies
from fedrecon.simulation._validation.model import check_model

LOG = logging.getLogger("fedrecon.deployment")
_PREPARED = 1024  # number of clients whose prepared examples stay in memory


class Node:
    """Answers a server's messages for its clients, with requests, updates and reasons of refusal only.

    Attributes:
        algorithm: The algorithm that is trained.
        store: The store of the node's clients and their states.
        run: Name of the run in which the node takes part; messages of other runs are refused.

    Args:
        algorithm: The algorithm that is trained.
        store: The store of the node's clients and their states.
        seed: The run's seed of the clients' random draws; 0 by default.
        run: Name of the run in which the node takes part; `"run"` by default.
        vocabularies: For each field that the run numbers, the original id of each number, by which the
            clients' fields are renumbered; examples of other ids are left out with a warning. None, the
            default, where the clients have no original ids.
        may_take_part: Says whether a client may compute now, `(client's name, round) -> bool`: whether the
            device is idle and on an unmetered network, for instance. None, the default, lets all clients
            compute always.
        max_bytes: The largest number of bytes of a message from the server; a longer one is refused; 2 GiB by
            default.

    Raises:
        DataError: The examples do not index the model's tables; or they have original ids and
            `vocabularies` is None, or these are not theirs.
        TypeError: `algorithm` is not an `Algorithm`, or the model's loss does not return what it must.
        ValueError: The model breaks a promise on the first client's examples; `check_model` lists them.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        store: Store,
        *,
        seed: int = 0,
        run: str = "run",
        vocabularies: Mapping[str, Any] | None = None,
        may_take_part: Callable[[Any, int], bool] | None = None,
        max_bytes: int = MAX_BYTES,
    ):
        of_kind(Algorithm, algorithm=algorithm)
        of_kind(Store, store=store)
        self.algorithm, self.store, self.run = algorithm, store, run
        self._clients = in_run_vocabularies(store.clients, vocabularies)
        self._seed, self._may, self._max_bytes = seed, may_take_part, max_bytes
        self._names = {str(name): (i, name) for i, name in enumerate(self._clients.ids.tolist())}
        self._lengths = block_lengths(self._clients.num_examples)
        self._prepared: OrderedDict[str, Client] = OrderedDict()
        init = algorithm.model.init_global
        self._shapes = jax.eval_shape(init, jax.random.key(0))
        key = key_of(np.zeros(2, np.uint32))
        check_model(algorithm, self._clients, jax.jit(init)(key), key)
        self._states = client_state_like(algorithm)

    @property
    def names(self) -> list[str]:
        """Names of the node's clients, as strings."""
        return list(self._names)

    def handle(self, data: bytes) -> bytes:
        """Answers a message of the server; an error becomes a refusal, so that there is always an answer.

        Args:
            data: The bytes of an `ask` message, which is answered with the rows that the client needs, or of
                a `broadcast`, which is answered with its update. The client's new state is on the disk before
                this returns the update.

        Returns:
            The bytes of a `request`, an `update`, or a `refusal`. A refusal holds the name of its reason and
            nothing else: the text of an error may contain data, and stays in the node's log.
        """
        address = Address(self.run, 0, 0)
        try:
            message = decode(data, self._max_bytes)
            address = Address(*message[1:5])
            client = self._client(address)
            if message.kind == "ask":
                return encode(request_message(address, client.rows))
            return encode(update_message(address, self._update(client, address, message)))
        except RefusedError as error:
            reason = error.reason
            LOG.warning("client %s: %s", self.store.pseudonym(address.client), error)
        except Exception:  # a node goes on after a bad round; the text stays here, since it may hold data
            reason = Refusal.FAILED
            LOG.exception("client %s", self.store.pseudonym(address.client))
        return encode(refusal_message(address, reason))

    def _update(self, client: Client, address: Address, message: Message) -> Update:
        broadcast = broadcast_from(message, self._shapes)
        stateful = bool(jax.tree.leaves(self._states))
        if stateful:
            counted, durable = (_whole(message.notes.get(name)) for name in ("counted", "durable"))
            kept = self.store.state(address.run, address.client, counted)
            client.state = None if kept is None else state_from(decode(kept), self._states)
        update = client.update(broadcast)
        if stateful:
            data = encode(state_message(address, client.state, {}))
            self.store.put_state(address.run, address.client, address.round, data, counted, durable)
        LOG.info("client %s answered round %d", self.store.pseudonym(address.client), address.round)
        return update

    def _client(self, address: Address) -> Client:
        if address.run != self.run:
            raise RefusedError(
                Refusal.WRONG_RUN, f"this node is in the run {self.run!r}, got {address.run!r}"
            )
        if address.client not in self._names:
            raise RefusedError(Refusal.NOT_ASKED, "this node has no such client")
        place, name = self._names[address.client]
        if self._may is not None and not self._may(name, address.round):
            raise RefusedError(Refusal.NOT_NOW, "the client may not take part now")
        if address.client not in self._prepared:
            examples = self._clients.take([place])
            length = next(x for x in self._lengths if x >= examples.num_examples[0])
            client = Client(
                self.algorithm,
                examples,
                name,
                self._seed,
                vocabularies=self._clients.vocabularies,
                length=length,
            )
            self._prepared[address.client] = client
            if len(self._prepared) > _PREPARED:
                self._prepared.popitem(last=False)
        return self._prepared[address.client]


def _whole(value: Any) -> int:
    return value if type(value) is int else -1
