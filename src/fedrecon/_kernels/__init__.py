"""Fast paths that change no number: rows of tables, look-ups, packing, top-k selection, Cholesky solves."""
