"""Deployment of an experiment: the app of an engine, its processes on this machine, and their run folder.

The engine is Flower; its API is used in the modules called `flower_…` only, and its programs in `local`.
"""
