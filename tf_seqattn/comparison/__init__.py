"""What a model gains: quality against latency and bytes, beside the alternatives."""

from tf_seqattn.comparison.measured_share import share_for_latency
from tf_seqattn.comparison.result import Frontier, Point
from tf_seqattn.comparison.train_and_measure import frontier

__all__ = ["Frontier", "Point", "frontier", "share_for_latency"]
