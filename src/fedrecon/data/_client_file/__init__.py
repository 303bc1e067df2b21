"""The client file: how it is written, sealed with checksums, and opened."""
