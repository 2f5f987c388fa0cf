"""Features of linear models, chosen by sequential attention, for scikit-learn."""

try:
    from tf_seqattn.linear.selector import SequentialAttentionSelector
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}. sa.linear needs scikit-learn: pip install 'tf-seqattn[linear]'"
    ) from error

__all__ = ["SequentialAttentionSelector"]
