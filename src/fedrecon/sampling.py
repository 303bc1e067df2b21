"""Sampling of cohorts: which clients take part in a round."""

from fedrecon.data._sampling import AbstractSampling, Everyone, Passes, Poisson, Sampling, Uniform, Weighted

__all__ = ["AbstractSampling", "Everyone", "Passes", "Poisson", "Sampling", "Uniform", "Weighted"]
