"""Images from every source, and the crops of them."""

import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.imagenet import images
from tf_seqattn.imagenet.data import batches, open_split
from tf_seqattn.imagenet.synthetic import make_images


def jpeg(height, width, value=128):
    return tf.io.encode_jpeg(np.full((height, width, 3), value, np.uint8))


def test_an_image_depends_on_its_number_alone():
    together, labels = make_images("train", 0, 6, size=8)
    apart, label = make_images("train", 4, 5, size=8)
    np.testing.assert_array_equal(together[4], apart[0])
    assert labels[4] == label[0]
    assert (make_images("validation", 4, 5, size=8)[0] != apart).any()
    assert (make_images("train", 4, 5, size=8, seed=1)[0] != apart).any()


def test_without_noise_a_class_has_its_own_frequencies():
    pictures, labels = make_images("train", 0, 200, size=32, classes=4, noise=0.0)
    spectra = np.abs(np.fft.fft2(pictures.mean(axis=-1) - 127.5))
    spectra = spectra.reshape(len(pictures), -1)
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    means = np.stack([spectra[:100][labels[:100] == k].mean(axis=0) for k in range(4)])
    guessed = np.argmax(spectra[100:] @ means.T, axis=1)
    assert (guessed == labels[100:]).mean() > 0.95


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (9, 300)])
def test_crops_have_the_size_asked_for(shape):
    image = jpeg(*shape)
    for result in (
        images.training_image(image, 24, tf.constant([1, 2])),
        images.evaluation_image(image, 24),
    ):
        assert result.shape == (24, 24, 3) and result.dtype == tf.float32
        expected = (128 - np.array(images.MEAN)) / images.DEVIATION
        np.testing.assert_allclose(result[5, 5], expected, atol=0.05)


def test_the_evaluation_crop_is_central():
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[4:60, 36:92] = 255
    result = images.evaluation_image(tf.io.encode_jpeg(picture, quality=100), 56)
    bright = (255 - np.array(images.MEAN)) / images.DEVIATION
    assert np.abs(result.numpy() - bright).mean() < 0.1


@pytest.fixture(scope="module")
def examples():
    pictures, labels = make_images("train", 0, 12, size=16, classes=3)
    return [tf.io.encode_jpeg(picture).numpy() for picture in pictures], labels


def as_records(folder, examples):
    for shard in range(2):
        name = str(folder / f"train-0000{shard}-of-00002")
        with tf.io.TFRecordWriter(name) as writer:
            for image, label in list(zip(*examples, strict=True))[shard::2]:
                feature = {
                    "image/encoded": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[image])
                    ),
                    "image/class/label": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[label + 1])
                    ),
                }
                record = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(record.SerializeToString())


def as_folders(folder, examples):
    for number, (image, label) in enumerate(zip(*examples, strict=True)):
        path = folder / "train" / f"class_{label}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


@pytest.mark.parametrize("write", [as_records, as_folders])
def test_files_are_read_whole_and_shared_between_workers(write, examples, tmp_path):
    write(tmp_path, examples)
    split = open_split(str(tmp_path), "train")
    assert (split.num_images, split.num_classes) == (12, 3)
    expected = sorted(zip(*examples, strict=True))
    read = [(i, int(la)) for i, la in split.examples(None, 0).as_numpy_iterator()]
    assert sorted(read) == expected
    for workers in (2, 3):
        read = []
        for worker in range(workers):
            context = tf.distribute.InputContext(workers, worker, workers)
            read += split.examples(context, 0).as_numpy_iterator()
        assert sorted((i, int(la)) for i, la in read) == expected


def test_batches_are_shaped_for_training_and_evaluation():
    split = open_split("synthetic", "validation", images=40, size=16, classes=4)
    assert split.num_images == 10
    whole = list(batches(split, 4, 8, training=False).as_numpy_iterator())
    assert [len(labels) for _, labels in whole] == [4, 4, 2]
    images_, labels = next(iter(batches(split, 4, 8, training=True)))
    assert images_.shape == (4, 8, 8, 3) and labels.dtype == tf.int64


@pytest.mark.parametrize("write", [None, as_records, as_folders])
def test_an_epoch_depends_on_its_number_and_the_seed_alone(write, examples, tmp_path):
    data = "synthetic"
    if write is not None:
        write(tmp_path, examples)
        data = str(tmp_path)
    split = open_split(data, "train", images=12, size=16, classes=3)

    def epochs(seed, *numbers):
        made = batches(split, 4, 8, True, seed, epochs=range(*numbers))
        # Keras begins twice at a dataset of one epoch.
        twice = [[images for images, _ in made.as_numpy_iterator()] for _ in range(2)]
        first, second = map(np.concatenate, twice)
        np.testing.assert_array_equal(first, second)
        return first

    whole = epochs(5, 0, 3)
    assert len(whole) == 36
    np.testing.assert_array_equal(epochs(5, 2, 3), whole[24:])
    assert (whole[:12] != whole[12:24]).any()
    assert (epochs(6, 0, 1) != whole[:12]).any()


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="data='nowhere'"):
        open_split("nowhere", "train")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no images"):
        open_split(str(tmp_path), "train")
    with pytest.raises(ValueError, match="split='test'"):
        make_images("test", 0, 1)
    with pytest.raises(ValueError, match="classes=1"):
        make_images("train", 0, 1, classes=1)
