"""What the trials of a sweep share in one process: data, compiled programs, and the drawing of figures."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fedrecon.experiment.config import Config
from fedrecon.experiment.reporting.figure_process import FigureDrawer
from fedrecon.experiment.settings.sections import flat
from fedrecon.experiment.tasks._spec import task_spec
from fedrecon.experiment.tasks._task import Task
from fedrecon.experiment.training.build import built_task, task_of
from fedrecon.simulation._shared_programs import SharedPrograms

# Settings below this one decide how a task is trained on. Of them the library's own tasks read only texts.
_ALGORITHM = "algorithm."


class SharedWork:
    """What one trial leaves to the next, so that a trial costs its rounds and not its start.

    A trial computes the same, to the bit, with and without what others left.

    Attributes:
        figures: Draws the figures of the trials.
        programs: The compiled programs.

    Args:
        figures: Draws the figures; None, the default, for this process.
    """

    def __init__(self, figures: FigureDrawer | None = None):
        self.figures, self.programs = figures or FigureDrawer(), SharedPrograms()
        self._built: tuple[dict[str, Any], Task] | None = None

    def task_of(self, config: Config, tuned: Mapping[str, Any]) -> Task:
        """The task of a configuration: that of the trial before, if no setting of its data or model differs.

        Args:
            config: The configuration of the trial.
            tuned: The values of the tuned settings, by their dotted names.
        """
        if not task_spec(config.task).__module__.startswith("fedrecon."):
            return task_of(config)  # a task of somebody else may read any setting
        settings = flat(config.model_dump())
        for name, value in tuned.items():
            if name.startswith(_ALGORITHM) and isinstance(value, float):
                settings.pop(name, None)
        if self._built is None or self._built[0] != settings:
            self._built = None  # two tasks at a time would need the memory of both
            self._built = settings, built_task(config)
        task: Task = config.algorithm.prepare(self._built[1], config.seed)
        return task

    @contextmanager
    def used(self, tuned: Mapping[str, Any]) -> Iterator[None]:
        """While entered, runs use the programs of earlier trials, and leave theirs to later ones.

        Args:
            tuned: The values of the tuned settings, by their dotted names.
        """
        with self.programs.used([x for x in tuned.values() if isinstance(x, float)]):
            yield
