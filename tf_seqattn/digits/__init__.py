"""Handwritten digits: a small convolutional network, pruned, exported and run.

Run it with `python -m tf_seqattn.digits --output out/digits`.
"""
