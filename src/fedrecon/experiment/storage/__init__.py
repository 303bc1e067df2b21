"""The run folder: checkpoints, metrics, atomic files, environment and resource usage."""
