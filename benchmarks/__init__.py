"""What the library's claims about speed are made of: `python -m benchmarks`."""
