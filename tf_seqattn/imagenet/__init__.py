"""The paper's ImageNet experiment: ResNet50, pruned by blocks.

Run it with `python -m tf_seqattn.imagenet --data synthetic --output out/imagenet`.
"""
