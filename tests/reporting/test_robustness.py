"""The part about robustness: its data, against NumPy, and what it asks for."""

import base64
import io
import json
import re

import keras as keras3
import numpy as np
import pytest
import tf_keras as keras
from matplotlib.image import imread

import tf_seqattn as sa
from tf_seqattn.reporting.robustness import robustness_data
from tf_seqattn.study.corruptions import CORRUPTIONS, STRENGTHS, corrupt


def network(library, seed, head="softmax"):
    """Convolution, average, dense: easy to compute in NumPy with a kernel of 1 x 1."""
    library.utils.set_random_seed(seed)
    layers = library.layers
    last = [layers.Dense(3)] if head != "bare" else [layers.Dense(3, use_bias=False)]
    model = library.Sequential(
        [
            library.Input((6, 6, 1)),
            layers.Conv2D(4, 1, activation="relu"),
            layers.Flatten(),
            *last,
            *([layers.Softmax()] if head == "softmax" else []),
        ]
    )
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def digits():
    random = np.random.default_rng(0)
    return random.random((7, 6, 6, 1)).astype("float32"), random.integers(0, 3, 7)


def data_of(path):
    text = path.read_text()
    (found,) = re.findall(
        r'<script type="application/json" id="robustness-data">(.*?)</script>', text
    )
    return json.loads(found)


def expected(model, images, labels):
    """Predictions, angles, lengths and margins, sample by sample."""
    weights = [w.astype(float) for w in model.get_weights()]
    convolution, shift, kernel = weights[:3]
    bias = weights[3] if len(weights) > 3 else np.zeros(kernel.shape[1])
    rows = []
    for image, label in zip(images.astype(float), labels, strict=True):
        h = np.maximum(image @ convolution[0, 0] + shift, 0).ravel()
        logits, w = h @ kernel + bias, kernel[:, label]
        angle = np.arccos(h @ w / np.linalg.norm(h) / np.linalg.norm(w))
        margin = min(
            (logits[label] - logits[k]) / np.linalg.norm(w - kernel[:, k])
            for k in range(len(bias))
            if k != label
        )
        rows.append((logits.argmax(), np.degrees(angle), np.linalg.norm(h), margin))
    return np.array(rows).T


def test_the_page_has_what_numpy_computes(digits, tmp_path):
    images, labels = digits
    others = {"</script> & <co>": network(keras3, 1, "bare")}
    model = network(keras, 0)
    before = model.get_weights()
    path = sa.report(
        model, tmp_path / "page.html", others=others, images=images, labels=labels
    )
    data = data_of(path)
    assert data["networks"] == ["</script> & <co>", "this model"]
    assert data["labels"] == labels.tolist()
    conditions = [(0, images)]
    for c, name in enumerate(CORRUPTIONS):
        for s in STRENGTHS:
            place = 1 + c * len(STRENGTHS) + s - 1
            conditions.append((place, corrupt(images, name, s)))
    assert len(data["sheets"]) == len(conditions)
    for number, each in enumerate([*others.values(), model]):
        for place, seen in conditions:
            wanted = expected(each, seen, labels)
            names = ("prediction", "angle", "length", "margin")
            for name, values in zip(names, wanted, strict=True):
                found = data[name][number][place]
                np.testing.assert_allclose(found, values, atol=0.011)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_page_needs_no_other_file(digits, tmp_path):
    images, labels = digits
    path = tmp_path / "page.html"
    sa.report(network(keras, 0), path, images=images, labels=labels)
    text = path.read_text()
    # The one address in it is the name of SVG.
    assert set(re.findall(r"https?://[^\"']+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"<link|<script[^>]+src|@import|url\(", text)
    # All that the script looks for by its name is there, but for what it makes.
    wanted = set(re.findall(r"byId\(\"([\w-]+)\"\)", text))
    made = {"sheet-first", "sheet-second"}
    assert wanted - set(re.findall(r"id=\"([\w-]+)\"", text)) == made
    assert "controls" in text and ".flips" in text
    wrong = np.mean(np.array(data_of(path)["prediction"][0][0]) != labels)
    assert f"<td>this model</td><td>{100 * wrong:.1f} %</td>" in text


def test_a_sheet_has_all_images_in_rows(digits):
    images, labels = digits
    data = robustness_data({"one": network(keras, 0)}, images, labels)
    content = base64.b64decode(data["sheets"][0].partition(",")[2])
    sheet = imread(io.BytesIO(content))[:, :, 0]
    assert (data["columns"], sheet.shape) == (3, (18, 18))
    np.testing.assert_allclose(sheet[6:12, 6:12], images[4, :, :, 0], atol=1 / 254)
    assert not sheet[12:, 6:].any()


def test_large_images_become_small_thumbnails():
    images = np.zeros((1, 70, 64, 3), "float32")
    # With a side of 32, three pixels by three become one.
    images[0, 3:6, 6:9] = np.arange(9).reshape(3, 3, 1) / 8
    model = keras.Sequential(
        [
            keras.Input((70, 64, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    data = robustness_data({"one": model}, images, np.array([1]))
    assert (data["height"], data["width"]) == (23, 21)
    content = base64.b64decode(data["sheets"][0].partition(",")[2])
    sheet = imread(io.BytesIO(content))
    np.testing.assert_allclose(sheet[1, 2, :3], 0.5, atol=0.01)
    assert sheet[..., :3].sum() == pytest.approx(1.5, abs=0.05)


def test_a_model_that_is_being_pruned_is_measured_without_its_blocks(digits):
    images, labels = digits
    model = network(keras, 0, "bare")
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    policy = sa.MinimumBlocks((1, 1), min_blocks=1)
    pruned = sa.prune(model, schedule, (1, 1), sa.Magnitude(), policy)
    pruned.compile("sgd", "mse")
    data = robustness_data({"one": pruned}, images, labels)
    stripped = sa.strip_pruning(pruned)
    assert np.mean(stripped.layers[-1].get_weights()[0] == 0) == 0.5
    wanted = expected(stripped, images, labels)
    np.testing.assert_allclose(data["margin"][0][0], wanted[3], atol=0.011)
    assert sa.pruned_layers(pruned)
    # In the middle of a training there is no warning, which would be an error here.
    rising = sa.prune(model, sa.GradualSchedule(0.5, 10), (1, 1), pruning_policy=policy)
    again = robustness_data({"one": rising}, images, labels)
    wanted = expected(model, images, labels)
    np.testing.assert_allclose(again["margin"][0][0], wanted[3], atol=0.011)


def test_bad_arguments_are_named(digits, tmp_path):
    images, labels = digits
    path, model = tmp_path / "page.html", network(keras, 0)
    for named, match in (
        ({"images": images}, "`images` and `labels` go together"),
        ({"others": {"a": model}}, "`others` needs both"),
        ({"images": 255 * images, "labels": labels}, "`images` must be from 0 to 1"),
        ({"images": images[:, 0], "labels": labels}, r"shape \(7, 6, 1\)"),
        ({"images": images, "labels": labels[:3]}, r"shape \(3,\)"),
        ({"images": images, "labels": labels / 2}, "float64"),
        ({"images": images, "labels": labels + 1}, "labels from 1 to 3|from 0 to 2"),
        (
            {"images": images, "labels": labels, "others": {"this model": model}},
            "another name",
        ),
        (
            {
                "images": images,
                "labels": labels,
                "others": {"no end": keras.Sequential(model.layers[:2])},
            },
            "'no end'",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            sa.report(model, path, **named)
    assert not path.exists()
