"""The tasks of experiments: every public module of this package is one, found under its own name.

A task's module has an instance of a subclass of `TaskSpec` that is called `TASK`, whose `build` returns a
`Task`. The modules are not listed anywhere, so that a new one is found as soon as it is there.
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
