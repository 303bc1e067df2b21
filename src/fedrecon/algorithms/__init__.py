"""Federated algorithms: each is a function that composes a model and stages into an `Algorithm`."""
