"""Ratings, the first task: files of every MovieLens format, generated ratings, matrix factorisation."""
