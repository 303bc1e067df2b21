"""The sections of an experiment file, and what they build."""
