"""What `benchmarks/quality.py` learns, and on which data."""
