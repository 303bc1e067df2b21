"""The sections of an experiment file, each of which builds the part that it describes."""
