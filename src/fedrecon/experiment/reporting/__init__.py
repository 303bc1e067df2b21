"""What a run writes for people and for scripts: tables, plots, the summary and the result."""
