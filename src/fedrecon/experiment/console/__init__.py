"""What a run prints while it works: progress of rounds and of counted work."""
