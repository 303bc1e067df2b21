"""Who takes part: the clients' data, the cohort of a round, and how a cohort is cut into blocks."""
