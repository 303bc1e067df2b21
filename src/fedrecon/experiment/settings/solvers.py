"""Settings of optimisers and local solvers, and what is built from them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from fedrecon.core._tags import tagged
from fedrecon.experiment.settings.sections import Section, SettingError, nearest, setting

BatchSize = Annotated[int, Field(ge=1)] | Literal["all"]
Limit = Annotated[int, Field(ge=1)] | Literal["none"]
# Functions of Optax that have names like schedules but are none, or that take a list of schedules.
_NO_SCHEDULES = ("add_decayed_weights", "constant_schedule", "join_schedules", "scale_by_schedule")


class ScheduleSettings(Section):
    """An Optax schedule over rounds; its other arguments are given by their names in Optax."""

    model_config = ConfigDict(extra="allow")

    name: str = setting(
        "constant", 'Optax schedule over rounds, for instance "cosine_decay" with decay_steps = 1500'
    )

    def build(self, peak: float, path: str) -> Any:
        """The schedule; None if it is constant.

        Args:
            peak: The learning rate that the schedule starts from, or warms up to.
            path: The dotted name of this section, for messages.

        Raises:
            SettingError: Optax has no such schedule, or the schedule no such argument.
        """
        if self.name == "constant" and not self.__pydantic_extra__:
            return None
        import optax

        from fedrecon.solvers._optimizers import schedule

        functions = [n for n in dir(optax) if n.endswith(("_schedule", "_decay")) and n not in _NO_SCHEDULES]
        schedules = {n.removesuffix("_schedule"): n for n in functions}
        name = schedules.get(self.name.removesuffix("_schedule"))
        if name is None:
            near = nearest(self.name, ["constant", *schedules])
            what = f"{self.name!r} is no schedule of Optax; the nearest one is {near!r}"
            raise SettingError(f"{path}.name: {what}")
        given = dict(self.__pydantic_extra__ or {})
        takes = _check_arguments(getattr(optax, name), given, path)
        start = {"init_value": 0.0, "peak_value": peak} if "peak_value" in takes else {"init_value": peak}
        arguments = {**{k: v for k, v in start.items() if k in takes}, **given}
        return _make(path, schedule, name, arguments)


class OptimizerSettings(Section):
    """An optimiser of Optax; its other hyperparameters are given by their names in Optax."""

    model_config = ConfigDict(extra="allow")

    name: str = setting(
        "sgd",
        "optimiser of Optax: sgd, adam, adagrad, …, or yogi_zero; its other hyperparameters by their names",
    )
    learning_rate: float = setting(0.1, "learning rate, before its schedule", gt=0, allow_inf_nan=False)
    schedule: ScheduleSettings = ScheduleSettings()

    def build(self, path: str, *, scheduled: bool) -> Any:
        """The optimiser.

        Args:
            path: The dotted name of this section, for messages.
            scheduled: Whether the learning rate follows the schedule; else it is constant.

        Raises:
            SettingError: Optax has no such optimiser, or the optimiser no such hyperparameter.
        """
        import optax

        from fedrecon.solvers._optimizers import OWN, optimizer

        given = dict(self.__pydantic_extra__ or {})
        function = OWN.get(self.name) or getattr(optax, self.name, None)
        if function is not None:
            _check_arguments(function, given, path)
        rate = self.schedule.build(self.learning_rate, f"{path}.schedule") if scheduled else None
        given = {"learning_rate": self.learning_rate if rate is None else rate, **given}
        return _make(path, optimizer, self.name, given)


class SolverSettings(Section):
    """Mini-batch gradient descent."""

    kind: Literal["solver"] = setting("solver", "mini-batch gradient descent")
    batch_size: BatchSize = setting(5, 'examples per step, or "all"')
    epochs: int = setting(1, "passes over the examples", ge=1)
    max_steps: Limit = setting("none", 'limit on the steps over all epochs, or "none"')
    shuffle: bool = setting(False, "whether each epoch takes the examples in a new random order")
    reduction: Literal["mean", "sum"] = setting(
        "mean", "whether a step descends the batch's mean loss or its sum"
    )
    growing_epochs: bool = setting(False, "whether round r makes only min(r, epochs) passes")
    one_by_one: bool = setting(
        False, "whether clients of a block are solved in turn: faster where they change large matrices"
    )
    optimizer: OptimizerSettings = OptimizerSettings()

    def build(self, path: str) -> Any:
        from fedrecon.solvers._gradient import Solver

        rate = self.optimizer.learning_rate
        # The schedule is over rounds, but the optimiser of a solver starts afresh in each round and cannot
        # count them. So the solver gets the schedule as a factor on its steps.
        rates = self.optimizer.schedule.build(rate, f"{path}.optimizer.schedule")
        return Solver(
            self.optimizer.build(f"{path}.optimizer", scheduled=False),
            None if self.batch_size == "all" else self.batch_size,
            self.epochs,
            None if self.max_steps == "none" else self.max_steps,
            shuffle=self.shuffle,
            reduction=self.reduction,
            adaptive_epochs=self.growing_epochs,
            schedule=None if rates is None else Relative(rates, rate),
            sequential=self.one_by_one,
        )


class NewtonSettings(Section):
    """Damped Newton steps: exact in one where the objective is quadratic, as in matrix factorisation."""

    kind: Literal["newton"] = "newton"
    iterations: int = setting(1, "Newton steps", ge=1)
    damping: float = setting(0.0, "added to the Hessian's diagonal", ge=0, allow_inf_nan=False)

    def build(self, path: str) -> Any:
        from fedrecon.solvers._newton import Newton

        return Newton(self.iterations, self.damping)


LocalSolverSettings = Annotated[SolverSettings | NewtonSettings, Field(discriminator="kind")]


@tagged("schedule/relative")
@dataclass(frozen=True, eq=False, repr=False)
class Relative:
    """A schedule divided by the learning rate that it starts from, as a function of the round."""

    rates: Any
    rate: float

    def __call__(self, round: Any) -> Any:
        return self.rates(round) / self.rate

    def __repr__(self) -> str:
        return f"{self.rates!r} / {self.rate!r}"


def ended_schedules(section: Section, before: int, rounds: int, path: str = "") -> list[tuple[str, str, int]]:
    """The schedules whose learning rate is 0 in the last of some rounds.

    Args:
        section: The section whose optimisers are looked at, and those of its subsections.
        before: The number of rounds before those that are looked at.
        rounds: The number of the last round.
        path: The dotted name of the section with a dot behind it; `""`, the default, for the whole schema.

    Returns:
        For each the dotted name of its section, its name in Optax, and the number of rounds after which its
        learning rate stays 0, at least `before`.
    """
    ended = []
    if isinstance(section, OptimizerSettings):
        rates = section.schedule.build(section.learning_rate, f"{path}schedule")

        def is_zero(done: int) -> bool:
            # The cosine of 32-bit numbers is not quite 0 where it should be.
            return rates is not None and abs(float(rates(done))) < 1e-7 * section.learning_rate

        if is_zero(rounds - 1):
            end = rounds - 1
            while end > before and is_zero(end - 1):
                end -= 1
            ended.append((f"{path}schedule", section.schedule.name, end))
    for name in type(section).model_fields:
        below = getattr(section, name)
        if isinstance(below, Section):
            ended += ended_schedules(below, before, rounds, f"{path}{name}.")
    return ended


def _check_arguments(function: Any, given: dict[str, Any], path: str) -> Mapping[str, Any]:
    takes = inspect.signature(function).parameters
    for name in given:
        if name not in takes:
            near = nearest(name, list(takes))
            raise SettingError(f"there is no setting {path}.{name}; the nearest one is {path}.{near}")
    return takes


def _make(path: str, make: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    try:
        return make(name, **arguments)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{path}: {error}") from error
