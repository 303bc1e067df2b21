"""The interface of a task: methods with defaults, and the look-up of a task by its name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from fedrecon.experiment.settings.algorithm_families import AlgorithmSettings
from fedrecon.experiment.settings.privacy import PrivacySettings
from fedrecon.experiment.settings.sections import Section, SettingError, nearest
from fedrecon.experiment.settings.training import EvaluationSettings

if TYPE_CHECKING:
    from fedrecon.data._clients import Clients
    from fedrecon.experiment.tasks._task import Task

# The name of the attribute in a task's module that holds its `TaskSpec`.
ATTRIBUTE = "TASK"


@runtime_checkable
class TaskConfig(Protocol):
    """What a task may read of an experiment's configuration.

    Attributes:
        task: The task's name, or the dotted path of its module.
        seed: Seed of every draw, splits of the data included.
        data: The task's own section of settings, an instance of `TaskSpec.Data`.
        model: The task's own section of settings, an instance of `TaskSpec.Model`.
        algorithm: Settings of the algorithm, for instance how it splits a client's examples.
        evaluation: Settings of the evaluation, for instance how it splits a client's examples.
        privacy: Settings of the protection of clients; where it is on, nothing but their deltas may depend on
            their examples, the vocabularies included.
    """

    @property
    def task(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def data(self) -> Any: ...
    @property
    def model(self) -> Any: ...
    @property
    def algorithm(self) -> AlgorithmSettings: ...
    @property
    def evaluation(self) -> EvaluationSettings: ...
    @property
    def privacy(self) -> PrivacySettings: ...


class TaskSpec(ABC):
    """The data and the model of experiments: one instance of it, called `TASK`, in a module of its own.

    Only `Data`, `Model` and `build` must be there. The other methods say how clients that a run did not have
    are read and prepared, each with the default that suits most tasks; `prepare_new_clients` calls them in
    the order in which they stand here. What is heavy to import is imported inside the methods, so that the
    command line stays quick.

    Attributes:
        Data: Section of settings that is the table `data` of an experiment file. Tasks that can read other
            data have a setting `path` in it.
        Model: Section of settings that is the table `model` of an experiment file.
        packaged_data: Values of `data.path` that name data of an installed package and no file; by default
            none.
    """

    Data: ClassVar[type[Section]]
    Model: ClassVar[type[Section]]
    packaged_data: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def build(self, config: TaskConfig) -> "Task":
        """The model, and the clients it is trained and evaluated on.

        Raises:
            DataError: The data cannot be read.
            SettingError: Settings do not fit each other or the data.
        """

    def build_without_data(self, config: TaskConfig, vocabularies: Mapping[str, Sequence[Any]]) -> "Task":
        """The task of a server, or of a node, that has not the data: its model is all that is used of it.

        The default is that of `build_to_serve`, and refuses where there is none. The parameters with which
        the model starts may depend on the data: a deployment takes them from the task with its data.

        Args:
            config: Configuration of the run, without a setting that would be read from data.
            vocabularies: For each field that has them the original ids, in the run's order.

        Raises:
            SettingError: The task cannot be deployed, or a setting would be read from data.
        """
        task = self.build_to_serve(config, vocabularies)
        if task is None:
            raise SettingError(
                f"task: a deployment needs a task that is built without data, {config.task} is not: its "
                f"TaskSpec must have build_without_data or build_to_serve"
            )
        return task

    def build_to_serve(self, config: TaskConfig, vocabularies: Mapping[str, Sequence[Any]]) -> "Task | None":
        """The task of a run without its data, to serve clients; it has one client, without examples.

        The default is None: the run's own data must be where it found them.

        Args:
            config: Configuration of the run, with `Task.settings_from_data` in it as far as its checkpoints
                hold them.
            vocabularies: For each field that has them the original ids, in the run's order.
        """
        return None

    def load_all_clients(self, config: TaskConfig) -> "Clients":
        """All clients of the data, ordered and capped as for training.

        The default refuses: the task has no data but its own.

        Raises:
            DataError: The data cannot be read.
            SettingError: The task reads no other data.
        """
        raise no_other_data(config.task, config.data.path)

    def public_ranges(self, config: TaskConfig) -> Mapping[str, tuple[float, float]]:
        """The lowest and the highest number of fields as the settings and the file's format tell them.

        Exports of a private run describe fields by these alone, since the ends of the clients' own numbers
        are not covered by the ledger. The default knows of no field.

        Args:
            config: Configuration of the run.
        """
        return {}

    def describe_source(self, config: TaskConfig) -> str:
        """How the data of `load_all_clients` are read, in a few words for a person: format and columns.

        The default says nothing.

        Raises:
            DataError: The data cannot be read.
        """
        return ""

    def open_client_file(self, config: TaskConfig, path: str | Path) -> "Clients":
        """The clients of a client file, as `load_all_clients` gives those of other files.

        Raises:
            DataError: The file cannot be read, or its clients break a rule of the task.
        """
        from fedrecon.data._clients import Clients
        from fedrecon.data._unpacking import UNPACKED_GIB

        limit = getattr(config.data, "unpacked_gib", UNPACKED_GIB)
        return self.accept_clients(config, Clients.open(path, unpacked_gib=limit), str(path))

    def accept_clients(self, config: TaskConfig, clients: "Clients", where: str) -> "Clients":
        """Clients of a client file, or from Python, as `load_all_clients` gives those of other files.

        The default changes nothing.

        Args:
            config: Configuration of the run.
            clients: The clients.
            where: The name of their source in messages.

        Raises:
            DataError: The clients break a rule of the task.
        """
        return clients

    def load_in_vocabulary(
        self, config: TaskConfig, vocabularies: Mapping[str, Sequence[Any]]
    ) -> "tuple[Clients, str] | None":
        """All clients of the data, numbered by a run's vocabularies, and a remark on them for the screen.

        The default is None: original ids are enough to renumber the clients of `load_all_clients`. A task
        overrides it where they are not, as in texts, whose words outside the vocabulary go into buckets.

        Args:
            config: Configuration of the run, with `data.path` of the other data.
            vocabularies: For each field that has them the original ids, in the run's order.

        Raises:
            DataError: The data cannot be read, or the vocabularies are not of this task.
        """
        return None

    def fields_to_load(self, fields: tuple[str, ...]) -> tuple[str, ...] | None:
        """The fields that clients must come with so that they can be served by `fields`; None for all.

        The default is `fields`. A task that makes some of them from others, in `add_serving_fields`, returns
        None.
        """
        return fields

    def narrow_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """The clients with numbers of 64 bits, of which a run needs the order alone, in 32 bits.

        The default changes nothing.
        """
        return clients

    def add_training_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """The clients of a node with all fields that they train by, some of which they may not come with.

        A node's file holds raw data, or some of the clients that `build` makes, which must come out as they
        are. The default adds nothing.

        Args:
            config: Configuration of the run.
            clients: Clients in the run's vocabularies.

        Raises:
            DataError: The clients lack what the fields are made of.
        """
        return clients

    def add_serving_fields(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """The clients with all fields that they are served by, some of which they may not come with.

        The default adds nothing.

        Args:
            config: Configuration of the run.
            clients: Clients in the run's vocabularies.
        """
        return clients

    def hold_out_for_evaluation(self, config: TaskConfig, clients: "Clients") -> "Clients":
        """The clients with their serving fields, and with a mark on the examples that they are asked for.

        The default marks nothing: the split of the evaluation says what is asked for.

        Args:
            config: Configuration of the run.
            clients: Clients in the run's vocabularies.

        Raises:
            DataError: No client has enough examples.
        """
        return self.add_serving_fields(config, clients)


def no_other_data(task: str, data: str) -> SettingError:
    """The error that a task has no data but its own."""
    return SettingError(
        f"--data: runs of the task {task} take no data but their own, and where clients are "
        f"personalised a client file, got {data!r}"
    )


def task_names() -> list[str]:
    """Names of the tasks that ship with the package: the public modules of `fedrecon.experiment.tasks`."""
    folder = str(Path(__file__).parent)
    return sorted(m.name for m in iter_modules([folder]) if not m.name.startswith("_"))


def task_spec(name: str) -> TaskSpec:
    """The task of a name: one of this package, or one at the dotted path of one's own module.

    Raises:
        SettingError: There is no such task, or its module lacks something.
    """
    if "." in name:
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            raise SettingError(f"task: the module {name!r} cannot be imported: {error}") from error
        return _spec_in(module, name)
    if name not in task_names():
        raise SettingError(
            f"task must be one of {', '.join(task_names())} or the path of a module; nearest to {name!r} is "
            f"{nearest(name, task_names())!r}"
        )
    return _spec_in(import_module(f"{__package__}.{name}"), name)


def _spec_in(module: ModuleType, name: str) -> TaskSpec:
    """The `TaskSpec` of a task's module, after a check that it has all that must be there."""
    spec = getattr(module, ATTRIBUTE, None)
    if not isinstance(spec, TaskSpec):
        got = "has none" if spec is None else f"has {spec!r}"
        raise SettingError(
            f"task: the module {name!r} must have an instance of a subclass of "
            f"fedrecon.experiment.tasks.TaskSpec called {ATTRIBUTE}, it {got}"
        )
    for section in ("Data", "Model"):
        cls = getattr(spec, section, None)
        if not (isinstance(cls, type) and issubclass(cls, Section)):
            raise SettingError(
                f"task: {ATTRIBUTE} of the module {name!r} must have an attribute {section} that is a "
                f"section of settings (a subclass of Section), got {cls!r}"
            )
    return spec
