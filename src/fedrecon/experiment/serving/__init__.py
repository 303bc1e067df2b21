"""Commands on a finished run: evaluate it, export it, and personalise or complete for new clients."""
