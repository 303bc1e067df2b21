"""What a run prints while it works: the progress of its rounds and of other long jobs."""
