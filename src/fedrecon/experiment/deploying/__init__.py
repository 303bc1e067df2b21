"""Deployment of an experiment: the app of an engine, its processes on this machine, and what they leave.

Flower is the engine so far; what is not in a module called `flower_…` knows nothing of it.
"""
