"""Runs of several processes: their group, what they agree on, signals, and exit messages."""
