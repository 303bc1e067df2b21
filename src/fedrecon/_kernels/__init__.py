"""Fast paths that change no result: rows of tables, look-ups, packing, top-k selection, Cholesky solves."""
