"""The tasks of experiments: every module of this package is one, under its own name.

A task's module has two sections of settings, `Data` and `Model`, and `build(config)`, which returns a
`fedrecon.experiment.tasks._base.Task`. Where `everyone(config)` gives all clients of the data, runs can be
evaluated on other data; so they can where `matched(config, vocabularies)` gives these clients in the
vocabularies of a run, with a remark for the screen. Where clients are served with more fields than they come
with, `served(config, clients)` adds them to those of `everyone`; where other clients are asked for examples
that they are marked with, `asked(config, clients)` adds them and the mark. `narrowed(config, clients)` makes
numbers of 64 bits, of which a run needs the order alone, fit 32. `PACKAGED` lists values of `data.path` that
are no paths. A task's module imports what is heavy inside functions.
"""
