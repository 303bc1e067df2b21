"""Models that ship with the library: matrix factorisation and next-word prediction."""
