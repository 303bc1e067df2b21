"""Deployment of an experiment: the app of an engine, its processes on this machine, and their run folder.

The engine is Flower, whose API is used in the modules called `flower_…` only, or NVFlare: `nvflare_engine`.
"""
