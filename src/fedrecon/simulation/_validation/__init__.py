"""Checks of a model on a few clients before it is trained."""
