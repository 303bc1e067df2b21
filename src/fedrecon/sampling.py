"""Sampling of cohorts: which clients take part in a round."""

from fedrecon.data._devices.availability import Availability, RoundOutcome
from fedrecon.data._devices.availability_models import Always, AvailabilityModel, Nightly, Traces
from fedrecon.data._sampling import AbstractSampling, Everyone, Passes, Poisson, Sampling, Uniform, Weighted

__all__ = [
    "AbstractSampling",
    "Always",
    "Availability",
    "AvailabilityModel",
    "Everyone",
    "Nightly",
    "Passes",
    "Poisson",
    "RoundOutcome",
    "Sampling",
    "Traces",
    "Uniform",
    "Weighted",
]
