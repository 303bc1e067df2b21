"""Sampling of cohorts: which clients take part in a round."""

from fedrecon.data._sampling import Passes, Poisson, Sampling, Uniform, Weighted

__all__ = ["Passes", "Poisson", "Sampling", "Uniform", "Weighted"]
