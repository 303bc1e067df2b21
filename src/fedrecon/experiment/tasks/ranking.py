"""Ranking of the items that a user will interact with, from MovieLens and other files of ratings."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fedrecon.experiment.settings.sections import Section, SettingError, setting
from fedrecon.experiment.tasks._rating_files import RatingFileSettings
from fedrecon.experiment.tasks._ratings import Fractions, nobody, shares_of
from fedrecon.experiment.tasks._spec import TaskConfig, TaskSpec

if TYPE_CHECKING:
    from fedrecon.data._clients import Clients
    from fedrecon.evaluation._ranking import Ranking
    from fedrecon.experiment.tasks._task import Task


# The place of the interaction that is held out, counted from the end.
_BACK = {"latest": 1, "second_latest": 2}


class LeaveOneOutSettings(Section):
    """All users are trained on without one interaction each, which is then ranked among the other items."""

    name: Literal["leave_one_out"] = "leave_one_out"
    held_out: Literal["latest", "second_latest"] = setting(
        "latest", "which; second_latest, to tune on: a validation, from which the latest is left out"
    )
    k: list[int] = setting([10], "the K of HR@K and NDCG@K", min_length=1)
    sampled: int = setting(
        99, "items that a user does not have, drawn as the others of sampled_hr@K and sampled_ndcg@K", ge=1
    )


class UnseenSettings(Section):
    """Users are split; for unseen users the items of their query set are ranked."""

    name: Literal["unseen"] = "unseen"
    recall_min: list[int] = setting(
        [20, 50], "the K of recall_min@K, of which K or all held-out items are the most, whichever are fewer"
    )
    recall: list[int] = setting([], "the K of recall@K, of which all held-out items are the most")
    hr: list[int] = setting([], "the K of HR@K, the share of users with a hit")
    ndcg: list[int] = setting([100], "the K of NDCG@K")
    fractions: Fractions = Fractions()


class RecencySettings(Section):
    """How much more an interaction counts the later it was: 1 + extra exp(-later interactions / items)."""

    extra: float = setting(0.0, "of the latest interaction; 0 for no weights", ge=0, allow_inf_nan=False)
    items: float = setting(5.0, "how fast it is forgotten, in interactions", gt=0, allow_inf_nan=False)
    training: bool = setting(False, "whether also in training, and not only when users are served")


class RankingData(RatingFileSettings):
    """The interactions: ratings, whatever they say, or those that are high enough."""

    least_rating: float = setting(0.0, "ratings below it are no interactions", allow_inf_nan=False)
    least_items: int = setting(5, "users with fewer interactions are left out", ge=1)
    duplicates: Literal["error", "last"] = setting(
        "error", "what to do when a user rated an item twice; last keeps what comes last in the file"
    )
    protocol: Annotated[LeaveOneOutSettings | UnseenSettings, Field(discriminator="name")] = setting(
        LeaveOneOutSettings(), "who is asked for what:"
    )
    recency: RecencySettings = RecencySettings()
    negatives: int = setting(0, "items drawn for each interaction, for the losses that need them", ge=0)


class ImplicitFactorizationSettings(Section):
    """Matrix factorisation of interactions, the item factors global and the user's local."""

    factors: int = setting(64, "length of a factor vector", ge=1)
    loss: Literal["squared", "softmax", "sampled_softmax", "binary", "bpr"] = setting(
        "squared", "over the whole catalogue: squared, softmax; over drawn items: the others"
    )
    unobserved: float = setting(0.1, "weight of every item as unobserved, with loss = squared", ge=0)
    penalty: float = setting(0.003, "times |u|² + |v|², added for every observation", ge=0)
    init_scale: float = setting(0.1, "factors start from N(0, init_scale² / factors)", ge=0)


class RankingTask(TaskSpec):
    """Interactions by user, ranked by implicit matrix factorisation."""

    Data = RankingData
    Model = ImplicitFactorizationSettings

    def build(self, config: TaskConfig) -> "Task":
        """Reads the ratings, or downloads them, and builds the model.

        Raises:
            DataError: The ratings cannot be read, or no user has enough of them.
            SettingError: The loss needs drawn items, and none are drawn; or weights by recency would tell
                what unseen users are asked for.
        """
        from fedrecon.datasets.ratings._interactions import leave_one_out
        from fedrecon.experiment.tasks._task import Task
        from fedrecon.models._implicit_matrix_factorization import SAMPLED, implicit_factorization

        data, protocol = config.data, config.data.protocol
        if config.model.loss in SAMPLED and not data.negatives:
            raise SettingError(
                f"data.negatives must be at least 1 with model.loss = {config.model.loss}, got 0"
            )
        if data.recency.extra and protocol.name == "unseen":
            raise SettingError(
                "data.recency.extra must be 0 with data.protocol.name = unseen, where evaluation.split says "
                "what is asked for: weights by recency would tell how much of that came later; got "
                f"{data.recency.extra:g}"
            )
        clients = _interactions(config, self.load_all_clients(config), data.least_items)
        num_items = len(clients.vocabularies["item"])
        model = implicit_factorization(num_items, **config.model.model_dump())
        scoring = _scoring(config, num_items)
        if protocol.name == "leave_one_out":
            back = _BACK[protocol.held_out]
            cut = leave_one_out(clients, back)
            held_out = {
                "test" if back == 1 else "validation": _add_fields(config, cut["held_out"], served=True)
            }
            train = _add_fields(config, cut["train"], served=False)
            return Task(
                model, train, None, None, data.notes(), held_out=held_out, scoring=scoring, scored=("item",)
            )
        sets = clients.split(shares_of(protocol.fractions), config.seed)
        prepared = {name: _add_fields(config, x, served=name != "train") for name, x in sets.items()}
        unseen = prepared.get("validation"), prepared.get("test")
        return Task(model, prepared["train"], *unseen, data.notes(), scoring=scoring, scored=("item",))

    def build_to_serve(self, config: TaskConfig, vocabularies: "Mapping[str, Sequence[Any]]") -> "Task":
        """The model of a run, and a user without an interaction, with the fields that users are served by."""
        from fedrecon.experiment.tasks._task import Task
        from fedrecon.models._implicit_matrix_factorization import implicit_factorization

        num_items = len(vocabularies["item"])
        model = implicit_factorization(num_items, **config.model.model_dump())
        served = _add_fields(config, nobody(vocabularies).select("item"), served=True)
        return Task(model, served, None, None, scoring=_scoring(config, num_items), scored=("item",))

    def load_all_clients(self, config: TaskConfig) -> "Clients":
        """All users of the data, with their ratings, of which `add_serving_fields` makes interactions.

        Raises:
            DataError: The ratings cannot be read, or a user has an item twice and must not.
        """
        from fedrecon.data._client_file.file import is_client_file
        from fedrecon.datasets.ratings._movielens import MOVIELENS_1M, download
        from fedrecon.datasets.ratings._prepare import prepare
        from fedrecon.datasets.ratings._reader_options import ANY_SCALE

        data = config.data
        path = data.path or download(MOVIELENS_1M)
        if is_client_file(path):
            return self.open_client_file(config, path)
        # Of any scale: a rating only tells whether there was an interaction.
        return prepare(path, duplicates=data.duplicates, scale=ANY_SCALE, **data.reading())

    def describe_source(self, config: TaskConfig) -> str:
        """The format of the rating file, and its columns.

        Raises:
            DataError: The ratings cannot be read.
        """
        return str(config.data.describe_source())

    def accept_clients(self, config: TaskConfig, clients: "Clients", where: str) -> "Clients":
        """The users, each with an item once, as `data.duplicates` says."""
        from fedrecon.datasets.ratings._interactions import each_once

        return each_once(clients, config.data.duplicates, where)

    def fields_to_load(self, fields: tuple[str, ...]) -> None:
        """None, for all fields: interactions and their weights are made of ratings and times."""

    def add_training_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """Users of a node as they are trained on: interactions by time, with the fields of the settings.

        No interaction is held out: a node's data are those to train on.
        """
        return _add_fields(config, _interactions(config, clients, 0), served=False)

    def add_serving_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """Users as they are evaluated: interactions by time, with the fields that the settings ask for.

        No user is left out: `data.least_items` says whom to train and evaluate on, not who can be served.
        """
        return _add_fields(config, _interactions(config, clients, 0), served=True)

    def hold_out_for_evaluation(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """Users as they are evaluated, with a mark on the interaction that the protocol may hold out.

        Users who have no other interaction are left out.

        Raises:
            DataError: No user is left.
        """
        from fedrecon.datasets.ratings._interactions import leave_one_out

        protocol = config.data.protocol
        if protocol.name != "leave_one_out":
            return self.add_serving_fields(config, clients)
        sets = leave_one_out(_interactions(config, clients, 0), _BACK[protocol.held_out])
        return _add_fields(config, sets["held_out"], served=True)


TASK = RankingTask()


def _scoring(config: TaskConfig, num_items: int) -> "Ranking":
    """What the protocol of the settings measures of users.

    Raises:
        SettingError: More items are to be drawn than there are.
    """
    from fedrecon.evaluation._ranking import Ranking

    protocol = config.data.protocol
    if protocol.name == "leave_one_out":
        if protocol.sampled >= num_items:
            raise SettingError(
                f"data.protocol.sampled must be below the number of items, of which the data have "
                f"{num_items:,}, got {protocol.sampled:,}"
            )
        asked = tuple((kind, k) for k in protocol.k for kind in ("hr", "ndcg"))
        return Ranking(num_items, asked, protocol.sampled)
    kinds = ("recall_min", "recall", "hr", "ndcg")
    return Ranking(num_items, tuple((kind, k) for kind in kinds for k in getattr(protocol, kind)))


def _interactions(config: TaskConfig, clients: "Clients", least_items: int) -> "Clients":
    from fedrecon.datasets.ratings._interactions import interactions

    return interactions(clients, least_rating=config.data.least_rating, least_items=least_items)


def _add_fields(config: TaskConfig, clients: "Clients", served: bool) -> "Clients":
    """The clients with the fields that the settings ask for."""
    from fedrecon.datasets.ratings._interactions import with_negatives, with_recency

    data = config.data
    if data.recency.extra and (served or data.recency.training):
        clients = with_recency(clients, data.recency.extra, data.recency.items)
    if data.negatives:
        num_items = len(clients.vocabularies["item"])
        clients = with_negatives(clients, data.negatives, num_items, config.seed)
    return clients
