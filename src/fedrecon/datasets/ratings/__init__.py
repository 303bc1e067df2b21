"""Ratings: files of every MovieLens format, tables of one's own, and generated ratings."""
