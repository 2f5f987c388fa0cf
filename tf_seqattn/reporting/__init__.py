"""One HTML page about a pruned model, for someone who was not there."""

from tf_seqattn.reporting.model_report import report

__all__ = ["report"]
