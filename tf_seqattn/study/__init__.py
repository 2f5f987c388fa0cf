"""Studies of pruning on the small digits: python -m tf_seqattn.study."""
