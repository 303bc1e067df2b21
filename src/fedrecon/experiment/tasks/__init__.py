"""The tasks of experiments: every public module of this package is one, under its own name.

The module of a task has an attribute `TASK`, an instance of a subclass of `TaskSpec`, whose `build` returns a
`Task`. The modules are not listed anywhere: a new one can be used as soon as its file exists.
"""

from typing import TYPE_CHECKING, Any

from fedrecon.experiment.tasks._spec import TaskConfig, TaskSpec

if TYPE_CHECKING:
    from fedrecon.experiment.tasks._task import Task

__all__ = ["Task", "TaskConfig", "TaskSpec"]


def __getattr__(name: str) -> Any:
    # `Task` imports JAX, which the command line does without until a task is built.
    if name == "Task":
        from fedrecon.experiment.tasks._task import Task

        return Task
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
