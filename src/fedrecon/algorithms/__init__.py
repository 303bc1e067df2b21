"""Federated algorithms: each is a function that composes a model and solvers into an `Algorithm`."""
