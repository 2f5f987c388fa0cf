"""The page about a pruned model: what it says, and that it needs no other file."""

import html.parser
import pathlib

import numpy as np
import pytest
import tf_keras as keras

import tf_seqattn as sa


class Parser(html.parser.HTMLParser):
    """Collects the texts and pictures, and checks that tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.images, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [v for k, v in attributes.items() if k in ("href", "src")]
        if tag == "img":
            self.images.append(attributes)
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def read(path):
    parser = Parser()
    parser.feed(path.read_text())
    assert not parser.open
    assert all(link.startswith("data:image/png;base64,") for link in parser.links)
    return " ".join(parser.texts), parser.images


@pytest.fixture
def trained():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Dense(64, input_shape=(64,), name="wide"),
            keras.layers.Dense(2, name="last"),
        ],
        name="small",
    )
    schedule = sa.SequentialAttentionSchedule(0.75, 40, cycles=3)
    pruned = sa.prune(model, schedule, (4, 4))
    pruned.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(160, 64)).astype("float32")
    pruned.fit(x, x[:, :2], 4, verbose=0, callbacks=[sa.UpdatePruningStep()])
    return pruned


def test_a_pruned_model_is_told_of_with_its_schedule(trained, tmp_path):
    before = [weight.numpy() for weight in trained.weights]
    text, images = read(sa.report(trained, tmp_path / "page.html"))
    assert [image["alt"] for image in images] == [
        "Share of blocks removed by training step",
        "Blocks of wide/kernel",
    ]
    for fact in ("75.0%", "256 of 4 x 4", "64", "fewer than 100", "sparse phase"):
        assert fact in text
    # There were 64 * 64 + 64 + 64 * 2 + 2 weights; 192 blocks of 16 were removed.
    assert "weights kept of 4,290" in text and f"{4290 - 192 * 16:,}" in text
    for weight, old in zip(trained.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_stripped_model_needs_no_wrapper(trained, tmp_path):
    stripped = sa.strip_pruning(trained)
    text, images = read(
        sa.report(stripped, tmp_path / "page.html", title="Clicks & <co>")
    )
    assert "Clicks & <co>" in text and "256 of 4 x 4" in text
    assert [image["alt"] for image in images] == ["Blocks of wide/kernel"]


def test_a_dense_model_has_no_pictures(tmp_path):
    model = keras.Sequential([keras.layers.Dense(4, input_shape=(4,), name="d")])
    text, images = read(sa.report(model, tmp_path / "page.html"))
    assert "0 of 1" in text and "not wrapped" in text
    assert not images


def test_notes_are_texts_and_pictures(tmp_path):
    from matplotlib.figure import Figure

    model = keras.Sequential([keras.layers.Dense(4, input_shape=(4,))])
    picture = tmp_path / "curve.png"
    Figure().savefig(picture)
    notes = {
        "Results": "A table:\n\n| a | b |\n|---|---|\n| 1 | <i> |",
        "Curves": picture,
    }
    path = sa.report(model, tmp_path / "page.html", notes=notes)
    text, images = read(path)
    assert "| a |" not in text and "A table:" in text and "<i>" in text
    assert "<td>&lt;i&gt;</td>" in path.read_text()
    assert images[0]["alt"] == "Curves"


def test_bad_arguments_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="`model`"):
        sa.report("model", tmp_path / "page.html")
    model = keras.Sequential([keras.layers.Dense(4, input_shape=(4,))])
    with pytest.raises((FileNotFoundError, ValueError), match="missing"):
        sa.report(model, tmp_path / "missing" / "page.html")
    with pytest.raises(FileNotFoundError):
        notes = {"Curves": pathlib.Path(tmp_path / "none.png")}
        sa.report(model, tmp_path / "page.html", notes=notes)
    assert not list(tmp_path.iterdir())
