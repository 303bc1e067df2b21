"""Commands on a finished run: evaluate, personalise and complete for clients of other data."""
