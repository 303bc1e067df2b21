"""Learning tasks: the data and the model of each; tasks never import one another."""
