"""Solvers of a client's local problem: gradient descent, Newton's method, and their optimisers."""
