"""The measures on known cases, the rule on a made map, and the study end to end."""

import numpy as np
import pytest
import tf_keras as keras

from tf_seqattn.digits.data import load_digits
from tf_seqattn.study import __main__ as command
from tf_seqattn.study import regime_map, regimes, rule
from tf_seqattn.study.connectivity import (
    barrier,
    errors_between,
    reestimate_batch_norms,
)
from tf_seqattn.study.similarity import linear_cka


def test_similarity_sees_no_rotation_but_another_function():
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 4))
    rotation = np.linalg.qr(random.normal(size=(4, 4)))[0]
    assert linear_cka(x, 2 * x @ rotation + 3) == pytest.approx(1.0)
    assert linear_cka(x, random.normal(size=(50, 4))) < 0.3
    # By its definition with centred Gram matrices.
    y = x[:, :2] ** 2
    grams = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y)]
    wanted = np.sum(grams[0] * grams[1])
    wanted /= np.linalg.norm(grams[0]) * np.linalg.norm(grams[1])
    assert linear_cka(x, y) == pytest.approx(wanted)


def test_batch_norms_have_the_statistics_of_the_rows():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()]
    )
    rows = np.random.default_rng(0).normal(2.0, 3.0, size=(40, 3)).astype("float32")
    reestimate_batch_norms(model, rows)
    hidden = model.layers[0](rows).numpy()
    norm = model.layers[1]
    np.testing.assert_allclose(norm.moving_mean, hidden.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, hidden.var(axis=0), rtol=0.05)
    assert norm.momentum == 0.99


def test_a_line_between_opposite_networks_has_a_barrier():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    rows = np.array([[-1.0], [1.0]] * 10, "float32")
    labels = np.array([0, 1] * 10)
    right = [np.array([[-1.0, 1.0]], "float32"), np.array([0.0, 0.1], "float32")]
    wrong = [-right[0], right[1]]
    errors = errors_between(model, right, wrong, rows, labels)
    assert errors[0] == 0 and errors[-1] == 1
    assert errors[5] == 0.5
    assert barrier(errors) == 0.5
    assert barrier(errors_between(model, right, right, rows, labels)) == 0


def made(setting, density, error, line=0.0, cka=1.0, network=0):
    return {
        "network": network,
        "method": "magnitude",
        "knob": "epochs",
        "setting": setting,
        "density": density,
        "error": error,
        "errors": [error, error + 0.01],
        "barrier": line,
        "cka": cka,
    }


def test_the_rule_is_scored_on_the_held_out_densities():
    results = [
        # They give the threshold: .9.
        *(made(e, 0.1, 0.5, cka=0.9) for e in (1, 2, 4)),
        # Not connected: hotter is better, so the rule is right at both cells.
        made(1, 0.2, 0.1, line=0.5),
        made(2, 0.2, 0.2, line=0.5),
        made(4, 0.2, 0.3, line=0.5),
        *(made(e, 0.3, 0.5, cka=0.9) for e in (1, 2, 4)),
        # Connected and not alike: colder should be better, and is worse once.
        made(1, 0.4, 0.3, cka=0.5),
        made(2, 0.4, 0.4, cka=0.5),
        made(4, 0.4, 0.2, cka=0.95),
    ]
    assert rule.score_rule(results) == {
        "right": 2 + 1,
        "wrong": 1,
        "equal": 0,
        "colder_right": 1,
        "colder_wrong": 2 + 1,
    }


def test_the_page_counts_networks_and_averages_cells(tmp_path):
    results = []
    for network, worse in ((0, 0.0), (1, 0.1)):
        for setting, error in ((1, 0.1), (2, 0.2)):
            # The measures choose setting 2, the densest error and hindsight 1.
            results += [
                made(setting, 0.1, error + worse, line=0.02 * network, network=network),
                made(setting, 0.5, error / 10, network=network),
            ]
            results[-2]["cka"] = error
    (first, *_) = regime_map.average(results)
    assert first["error"] == pytest.approx(0.15)
    assert first["errors"] == pytest.approx([0.1, 0.2])
    assert first["barrier"] == pytest.approx(0.01)
    text = regime_map.report(results, 2, "command", tmp_path / "p.png")
    assert "2 networks at each temperature" in text
    # Seeds 0 and 1: 20 and 30 by the measures, 10 and 20 by the others.
    assert "25.0 ± 5.0 | 15.0 ± 5.0 | 15.0 ± 5.0 |" in text
    # Only the second network is not connected, at both settings of density .1.
    assert "| magnitude, epochs | 2 |" in text


def few_digits():
    digits = load_digits()
    return digits._replace(
        train_images=digits.train_images[:96], train_labels=digits.train_labels[:96]
    )


def test_pruned_weights_keep_the_blocks_of_most_importance():
    few = few_digits()
    dense = regimes.train_dense("magnitude", "epochs", 1, few, seed=0)
    sparse = regimes.pruned_weights(dense, 0.1)
    denser = regimes.pruned_weights(dense, 0.5)
    kernel = denser[0].reshape(16, 4, 32, 4)
    norms = np.linalg.norm(kernel, axis=(1, 3))
    assert np.mean(norms > 0) == pytest.approx(0.5)
    kept = np.linalg.norm(sparse[0].reshape(16, 4, 32, 4), axis=(1, 3)) > 0
    assert np.mean(kept) == pytest.approx(0.1, abs=0.01)
    assert norms[kept].min() >= norms[~kept].max()
    assert len(sparse) == len(regimes.make_network().weights)


def test_the_study_from_its_command_and_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(regimes, "METHODS", dict([*regimes.METHODS.items()][1:]))
    monkeypatch.setattr(regimes, "TEMPERATURES", {"epochs": (8,)})
    monkeypatch.setattr(regimes, "load_digits", few_digits)
    monkeypatch.setattr(regimes, "DENSITIES", (0.05, 0.5))
    monkeypatch.setattr(regimes, "_RETRAINING", 3)
    arguments = ["regimes", "--output", str(tmp_path), "--seeds", "2"]
    arguments += ["--networks", "2"]
    results = command.main(arguments)
    assert [r["network"] for r in results] == [0, 0, 1, 1]
    # The networks differ.
    assert results[0]["errors"] != results[2]["errors"]
    sparse, dense = results[0], results[1]
    assert (sparse["density"], dense["density"]) == (0.05, 0.5)
    assert sparse["error"] > dense["error"]
    assert 0 < sparse["cka"] < 1
    assert (tmp_path / "regimes.png").stat().st_size > 5000
    assert "sequential attention, epochs" in capsys.readouterr().out
    # What is there is not measured again.
    monkeypatch.setattr(regimes, "train_dense", None)
    assert command.main(arguments) == results
    assert "density 0.05" in regime_map.report(
        results, 2, "command", tmp_path / "p.png"
    )
