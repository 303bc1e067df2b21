"""Evaluation of clients, ranking metrics, and the names of metrics."""
