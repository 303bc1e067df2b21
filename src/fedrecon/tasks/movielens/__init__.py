"""Ratings: the paper's first task. Files of every MovieLens format, generated ratings, matrix factorisation."""
