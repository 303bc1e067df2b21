"""Devices as they are: when clients are available, and how fast they answer."""
