"""Where images come from: TensorFlow Datasets, TFRecords, folders, or a generator."""

import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_seqattn.imagenet.images import evaluation_image, training_image
from tf_seqattn.imagenet.synthetic import jpeg_dataset

# Images of each split of ImageNet, and the shards it is usually stored in.
_IMAGENET = {"train": (1_281_167, 1024), "validation": (50_000, 128)}
_SUFFIXES = (".jpg", ".jpeg")
_SHUFFLED_IMAGES = 10_000


class Split(NamedTuple):
    """Images of one split, not decoded.

    Attributes:
      num_images: how many there are.
      num_classes: labels are from 0 to this, exclusive.
      examples: from a `tf.distribute.InputContext` or None, and a seed of the order of
        the files, to a dataset of (JPEG bytes, integer label), of that worker's share.
    """

    num_images: int
    num_classes: int
    examples: Callable[[tf.distribute.InputContext | None, int], tf.data.Dataset]


def _share(dataset: tf.data.Dataset, context) -> tf.data.Dataset:
    """Every n-th element, for one of n workers."""
    if context is None or context.num_input_pipelines == 1:
        return dataset
    return dataset.shard(context.num_input_pipelines, context.input_pipeline_id)


def _synthetic(split: str, images: int, size: int, classes: int) -> Split:
    count = images if split == "train" else max(classes, images // 4)
    dataset = jpeg_dataset(split, count, size, classes)
    return Split(count, classes, lambda context, seed: _share(dataset, context))


def _tfds(name: str, split: str) -> Split:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"`data` 'tfds:{name}' needs TensorFlow Datasets: "
            "pip install 'tf-seqattn[imagenet]'"
        ) from error
    builder = tfds.builder(name)
    info = builder.info

    def examples(context, seed):
        read = tfds.ReadConfig(
            input_context=context,
            shuffle_seed=seed,
            shuffle_reshuffle_each_iteration=False,
        )
        dataset = builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=read,
            shuffle_files=split == "train",
        )
        return dataset.map(lambda example: (example["image"], example["label"]))

    return Split(
        info.splits[split].num_examples, info.features["label"].num_classes, examples
    )


def _parse_record(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the record of TensorFlow's ImageNet scripts; their labels start at 1."""
    features = {
        "image/encoded": tf.io.FixedLenFeature((), tf.string),
        "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    }
    example = tf.io.parse_single_example(record, features)
    return example["image/encoded"], example["image/class/label"] - 1


def _records(files: list[str], split: str) -> Split:
    images, shards = _IMAGENET[split]
    if len(files) == shards:
        classes = 1000
    else:
        dataset = tf.data.TFRecordDataset(files).map(_parse_record)
        images, last = dataset.reduce(
            (tf.constant(0), tf.constant(0, tf.int64)),
            lambda state, example: (state[0] + 1, tf.maximum(state[1], example[1])),
        )
        images, classes = int(images), int(last) + 1

    def examples(context, seed):
        names = tf.data.Dataset.from_tensor_slices(files)
        enough = context is None or len(files) >= context.num_input_pipelines
        names = _share(names, context) if enough else names
        if split == "train":
            names = names.shuffle(len(files), seed, reshuffle_each_iteration=False)
        dataset = names.interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(16, len(files)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        dataset = dataset if enough else _share(dataset, context)
        return dataset.map(_parse_record, num_parallel_calls=tf.data.AUTOTUNE)

    return Split(images, classes, examples)


def _folder(folder: pathlib.Path) -> Split:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(
            str(path)
            for path in (folder / name).iterdir()
            if path.suffix.lower() in _SUFFIXES
        )
        files += found
        labels += [label] * len(found)
    if not files:
        raise ValueError(
            f"{folder} has no images: expected a folder for each class, with files "
            f"ending in {' or '.join(_SUFFIXES)}."
        )

    def examples(context, seed):
        dataset = _share(tf.data.Dataset.from_tensor_slices((files, labels)), context)
        # Names are cheap to shuffle, all at once; images are not.
        dataset = dataset.shuffle(len(files), seed, reshuffle_each_iteration=False)
        return dataset.map(
            lambda name, label: (tf.io.read_file(name), label),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    return Split(len(files), len(classes), examples)


def open_split(
    data: str, split: str, images: int = 512, size: int = 64, classes: int = 16
) -> Split:
    """Finds the images of a split.

    Args:
      data: "synthetic"; "tfds:NAME" for a dataset of TensorFlow Datasets; or a folder,
        either with TFRecords named `train-*` and `validation-*` as TensorFlow's
        ImageNet scripts write them, or with `train/CLASS/*.jpg` and
        `validation/CLASS/*.jpg`.
      split: "train" or "validation".
      images: number of synthetic training images; a quarter of it for validation.
      size: pixels of a side of synthetic images.
      classes: number of synthetic classes.

    Returns:
      A `Split`.

    Raises:
      ValueError: if nothing of that kind is there.
      ImportError: for "tfds:" without TensorFlow Datasets.

    Example:

    >>> split = open_split("synthetic", "train", images=8, size=16)
    >>> split.num_images, split.num_classes
    (8, 16)
    """
    if data == "synthetic":
        return _synthetic(split, images, size, classes)
    if data.startswith("tfds:"):
        return _tfds(data.removeprefix("tfds:"), split)
    folder = pathlib.Path(data)
    records = sorted(str(path) for path in folder.glob(f"{split}-*"))
    if records:
        return _records(records, split)
    if (folder / split).is_dir():
        return _folder(folder / split)
    raise ValueError(
        "`data` must be 'synthetic', 'tfds:NAME', or a folder that has TFRecords named "
        f"{split}-* or images in {split}/CLASS/. Received: data={data!r}"
    )


def batches(
    split: Split,
    batch_size: int,
    size: int,
    training: bool,
    seed: int = 0,
    context: tf.distribute.InputContext | None = None,
    epochs: range = range(1),
) -> tf.data.Dataset:
    """Batches of decoded images.

    An epoch of training is as many whole batches as there are images for. Its images,
    their order and their crops depend on the seed and its number alone, so that a
    training may begin at any of them.

    Args:
      split: of `open_split`.
      batch_size: images of a step over all replicas; each pipeline makes its share.
      size: pixels of a side.
      training: whether to crop at random and to shuffle.
      seed: of the order of the images and their crops.
      context: given by `tf.distribute`.
      epochs: numbers of the epochs of training.

    Returns:
      A dataset of (float32 `(batch, size, size, 3)`, int64 `(batch,)`).
    """
    # Of an epoch, for this pipeline; its replicas take turns at its batches.
    taken = split.num_images // batch_size * batch_size
    if context is not None:
        taken //= context.num_input_pipelines
        batch_size = context.get_per_replica_batch_size(batch_size)
    if not training:
        dataset = split.examples(context, seed).map(
            lambda jpeg, label: (
                evaluation_image(jpeg, size),
                tf.cast(label, tf.int64),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)

    def shuffled(epoch: int) -> tf.data.Dataset:
        # A seed of its own, unlike those of other seeds and epochs.
        order = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
        dataset = split.examples(context, order).repeat()
        # Keras may begin twice at the only epoch that is left.
        buffer = min(split.num_images, _SHUFFLED_IMAGES)
        dataset = dataset.shuffle(buffer, order, reshuffle_each_iteration=False)
        return dataset.take(taken)

    parts = [shuffled(epoch) for epoch in epochs]
    dataset = functools.reduce(tf.data.Dataset.concatenate, parts)

    def decode(number, example):
        jpeg, label = example
        image = training_image(jpeg, size, tf.stack([number, seed]))
        return image, tf.cast(label, tf.int64)

    dataset = dataset.enumerate(epochs.start * taken)
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
