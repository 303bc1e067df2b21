"""Simulation of federated rounds on one or several devices."""
