"""The tasks of experiments: every module of this package is one, under its own name.

A task's module has two sections of settings, `Data` and `Model`, and
`build(config, progress) -> fedrecon.experiment.task.Task`. It imports what is heavy inside functions.
"""
