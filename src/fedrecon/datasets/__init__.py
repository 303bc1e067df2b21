"""Readers that turn files of ratings or of text, in their real formats, into clients."""
