"""The rows of a click log: reading, parsing, encoding, shards and batches."""
