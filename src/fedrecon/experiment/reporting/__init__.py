"""What a run writes for its reader: tables, plots, the summary and the result."""
