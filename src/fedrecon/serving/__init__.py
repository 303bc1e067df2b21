"""Serving of clients that training has never seen: reconstruct, then predict."""
