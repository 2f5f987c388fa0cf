"""The digit application learns, prunes and runs the same under LiteRT."""

import numpy as np
import pytest

import tf_seqattn as sa
from tf_seqattn.digits import report
from tf_seqattn.digits.__main__ import main, parse_arguments
from tf_seqattn.digits.data import load_digits
from tf_seqattn.digits.model import build_model
from tf_seqattn.digits.training import train_dense, train_pruned
from tf_seqattn.inference import litert

EPOCHS = 15
SPARSITY = 0.8
BLOCK = (8, 8)


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture(scope="module")
def dense(digits):
    return train_dense(build_model(), digits, EPOCHS)


@pytest.fixture(scope="module")
def pruned(digits):
    return train_pruned(build_model(), digits, EPOCHS, SPARSITY, BLOCK)


@pytest.fixture(scope="module")
def pruned_file(pruned, tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "pruned.tflite"
    sa.export_tflite(pruned.model, path, choose="always")
    return path.read_bytes()


def zero_blocks(kernel):
    """Number of 8 x 8 blocks of a 3 x 3 convolution that are zero, counted anew."""
    inputs, outputs = np.prod(kernel.shape[:-1]), kernel.shape[-1]
    blocks = np.reshape(kernel, (inputs // 8, 8, outputs // 8, 8))
    return int(np.sum(~blocks.any(axis=(1, 3))))


def test_data_are_split_by_class(digits):
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.train_images.min() == 0 and digits.train_images.max() == 1
    counts = np.bincount(digits.test_labels)
    assert len(counts) == 10 and counts.max() - counts.min() <= 2


def test_another_seed_holds_out_other_images(digits):
    assert not np.array_equal(load_digits(1).test_images, digits.test_images)


def test_dense_network_learns(dense):
    assert dense.accuracy[-1] > 0.97


def test_pruned_network_learns(pruned):
    assert pruned.accuracy[-1] > 0.95


def test_large_convolutions_have_the_zero_blocks_asked_for(pruned):
    for name, blocks in (("conv_2", 288), ("conv_3", 576)):
        kernel = pruned.model.get_layer(name).kernel.numpy()
        assert zero_blocks(kernel) == round(SPARSITY * blocks)


def test_small_kernels_stay_dense(pruned):
    for name in ("conv_1", "logits"):
        assert np.all(pruned.model.get_layer(name).kernel.numpy() != 0)


def test_stripped_network_has_the_layers_of_the_dense_one(pruned, dense):
    names = [layer.name for layer in dense.model.layers]
    assert [layer.name for layer in pruned.model.layers] == names
    assert pruned.model.count_params() == dense.model.count_params()


def test_masked_share_rises_to_the_target_and_stays(pruned):
    assert 0 < pruned.sparsity[0] < SPARSITY / 2
    assert (np.diff(pruned.sparsity) >= 0).all()
    assert pruned.sparsity[-1] == pytest.approx(SPARSITY, abs=1 / 288)


def test_stripped_network_scores_what_the_pruned_one_did(pruned, digits):
    logits = pruned.model.predict(digits.test_images, verbose=0)
    accuracy = np.mean(logits.argmax(axis=1) == digits.test_labels)
    assert accuracy == pytest.approx(pruned.accuracy[-1])


def test_litert_computes_what_keras_does(pruned, pruned_file, digits):
    expected = pruned.model.predict(digits.test_images, verbose=0)
    (actual,) = litert.run(pruned_file, [digits.test_images])
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_row_reports_what_was_measured(pruned, pruned_file, digits):
    row = report.evaluate("pruned", pruned.model, pruned_file, digits, BLOCK)
    assert row.accuracy == pytest.approx(pruned.accuracy[-1])
    assert row.litert_accuracy == row.accuracy
    assert row.zero_blocks == pytest.approx(SPARSITY, abs=1 / 288)
    assert row.file_bytes == len(pruned_file)
    # Four of five weights are zero, and are not stored.
    assert row.file_bytes < 0.45 * 4 * pruned.model.count_params()


@pytest.mark.slow
def test_command_writes_table_pictures_and_models(tmp_path, capsys):
    output = tmp_path / "new" / "folder"
    dense, small, pruned, smallest = main(["--output", str(output), "--epochs", "2"])
    assert sorted(path.name for path in output.iterdir()) == [
        "curves.png",
        "dense.tflite",
        "dense_int8.tflite",
        "masks.png",
        "pruned.tflite",
        "pruned_int8.tflite",
        "table.md",
    ]
    assert (output / "table.md").read_text() in capsys.readouterr().out
    assert dense.zero_blocks == 0
    assert pruned.zero_blocks == pytest.approx(SPARSITY, abs=1 / 288)
    assert pruned.file_bytes < 0.45 * dense.file_bytes
    assert smallest.file_bytes < min(small.file_bytes, pruned.file_bytes)


def test_options_of_the_command():
    options = parse_arguments(["--block-size", "4", "16", "--sparsity", "0.5"])
    assert options.block_size == [4, 16]
    assert (options.sparsity, options.seed) == (0.5, 0)


@pytest.mark.parametrize(
    "arguments",
    [["--sparsity", "1"], ["--block-size", "0", "8"], ["--epochs", "0"]],
)
def test_impossible_options_are_refused_at_once(arguments, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert arguments[0] in capsys.readouterr().err
