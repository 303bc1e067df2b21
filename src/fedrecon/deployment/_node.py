"""A node: the clients of one process, which answer a server's messages."""

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
from fedrecon.simulation._validate_model import check_model

LOG = logging.getLogger("fedrecon.deployment")
_PREPARED = 1024  # clients whose examples stay laid out in memory


class Node:
    """Answers for its clients. What it sends are requests and updates, or a reason's name, and nothing else.

    Attributes:
        algorithm: The algorithm that is trained.
        store: Its clients.
        run: The run that it takes part in; messages of another one are refused.

    Args:
        algorithm: The algorithm that is trained.
        store: Its clients.
        seed: The run's.
        run: See the attribute.
        vocabularies: For fields that the run numbers, the original id of each number, by which the clients'
            fields are renumbered; examples of other ids are left out with a warning. They may be None where
            the clients have no original ids.
        may_take_part: From a client's name and a round to whether it may compute now; None for always. Such
            as: the device is idle and on a free network, and its owner has agreed.
        max_bytes: How long a message to it may be.

    Raises:
        DataError: The examples do not index the model's tables; or they have original ids and
            `vocabularies` is None, or these are not theirs.
        TypeError: `algorithm` is none, or the model's loss is not as it must be.
        ValueError: The model breaks a promise on the first client's examples, see `check_model`.
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
        """Names of its clients, as messages have them."""
        return list(self._names)

    def handle(self, data: bytes) -> bytes:
        """What is sent back for a message of the server; whatever happens, it is a message.

        Args:
            data: An `ask`, to which a client answers which rows it needs, or a `broadcast`, to which it
                answers with its update. What the client keeps is on the disk before its update is sent.

        Returns:
            A `request`, an `update`, or a `refusal` with the name of its reason alone: the text of an error
            may hold data, and stays in the node's log.
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
        except Exception:  # a node must not end with its first bad round, and nobody else may read why
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
