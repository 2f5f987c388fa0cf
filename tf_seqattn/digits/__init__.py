"""Handwritten digits: a small convolutional network, pruned, exported and run.

Run it with `python -m tf_seqattn.digits --output out/digits`.
"""

from tf_seqattn.experiments.command_line import require_extra

require_extra("digits", "sklearn", "matplotlib")
