"""Comparison of finished runs: significance tests, learning curves, and the report page."""
