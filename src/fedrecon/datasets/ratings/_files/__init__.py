"""Rating files: where they are, how each is written, and the readers of every form."""
