"""Federations in several client files: a folder of shards, and an index of their clients."""
