"""Experiments: configuration, training with checkpoints and records, plots, and the command line."""
