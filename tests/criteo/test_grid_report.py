"""The summary of a grid, worked by hand."""

import json

import pytest

from tf_seqattn.criteo import grid_report
from tf_seqattn.criteo.paper_results import paper_loss


def cell(algorithm, seed, log_loss, **changes):
    return {
        "algorithm": algorithm,
        "sparsity": 0.9,
        "block_size": 20,
        "seed": seed,
        "log_loss": log_loss,
        "auc": 0.75,
        "blocks_kept": 40,
        "seconds": 1.0,
        "steps": 100,
        "batch_size": 64,
        "first_rate": 2e-3,
        "finetune_fraction": 0.2,
        "last_rate": 3e-4,
        "validation_rows": 500,
        "curve_steps": [10 * n for n in range(1, 11)],
        "curve_losses": [0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.5, 0.4],
        **changes,
    }


RECOVERY = {
    "informative_share_of_kept": 0.5,
    "informative_share_of_all": 0.25,
    "informative_fields": 4,
    "informative_fields_read": 3,
}
RESULTS = [
    cell("seqattn", 0, 0.40, **RECOVERY),
    cell("seqattn", 1, 0.42, **RECOVERY),
    cell("acdc", 0, 0.42),
    cell("acdc", 1, 0.48),
    cell("magnitude", 0, 0.39),
]


@pytest.fixture(scope="module")
def summary():
    return {line["algorithm"]: line for line in grid_report.summarize(RESULTS)}


def test_differences_are_between_runs_of_the_same_seed(summary):
    acdc = summary["acdc"]
    # 0.02 and 0.06: mean 0.04, standard error 0.02.
    assert acdc["behind"] == pytest.approx(0.04)
    assert acdc["behind_errors"] == pytest.approx(2.0)
    assert acdc["log_loss"] == pytest.approx(0.45)
    assert acdc["log_loss_error"] == pytest.approx(0.03)
    assert summary["magnitude"]["behind"] == pytest.approx(-0.01)
    assert summary["seqattn"]["behind"] is None


def test_what_is_recovered_is_averaged(summary):
    ours = summary["seqattn"]
    assert (ours["precision"], ours["chance"], ours["recall"]) == (0.5, 0.25, 0.75)
    assert "recall" not in summary["acdc"]


def test_the_end_of_the_curve_is_watched(summary):
    # Around 90: (0.6 + 0.5 + 0.4) / 3; the last three are the same.
    assert summary["acdc"]["improving"] == pytest.approx(0.0)
    curve = cell("acdc", 0, 0.4)
    curve["curve_losses"] = [1.0] * 8 + [0.7, 0.4]
    curve["curve_steps"] = [10, 20, 30, 40, 50, 60, 63, 90, 95, 100]
    # Around 90: (1 + 1 + 0.7) / 3; at the end (1 + 0.7 + 0.4) / 3.
    assert grid_report.last_improvement(curve) == pytest.approx(0.2)


def test_twice_the_steps_are_compared_by_seed(tmp_path):
    longer = [cell("acdc", 0, 0.40), cell("acdc", 1, 0.42), cell("seqattn", 1, 0.41)]
    lines = {s["algorithm"]: s for s in grid_report.summarize(RESULTS, longer)}
    # -0.02 and -0.06.
    assert lines["acdc"]["twice"] == pytest.approx(-0.04)
    assert lines["acdc"]["twice_error"] == pytest.approx(0.02)
    assert lines["seqattn"]["twice"] == pytest.approx(-0.01)
    assert "twice" not in lines["magnitude"]
    grid_report.write(RESULTS, tmp_path, "grid", "", {}, longer)
    text = (tmp_path / "grid.md").read_text()
    assert "| twice the steps |" in text
    rows = {
        line.split("|")[3].strip(): line
        for line in text.splitlines()
        if "90%" in line and "|" in line
    }
    assert "| -0.0400 ± 0.0200 |" in rows["ACDC"]
    assert "| -0.0100 |" in rows["SequentialAttention++"]
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    # Not before all were trained for longer, of the same seed.
    assert "After twice" not in text
    longer += [cell("seqattn", 0, 0.39), cell("magnitude", 0, 0.37)]
    grid_report.write(RESULTS, tmp_path, "grid", "", {}, longer)
    text = (tmp_path / "grid.md").read_text()
    assert "(seed 0) it is second, 0.0200 behind magnitude" in text


def test_the_paper_stands_beside(summary):
    assert summary["acdc"]["paper"] == 0.4829
    assert paper_loss("seqattn", 0.99, 5) == 0.4803
    assert paper_loss("dense", 0.0, 20) == 0.4489
    assert paper_loss("retrained", 0.9, 20) is None
    assert paper_loss("seqattn", 0.5, 20) is None


def test_the_table_and_the_picture_are_written(tmp_path, capsys):
    grid_report.write(RESULTS, tmp_path, "grid", "a command", {"bayes_log_loss": 0.3})
    text = (tmp_path / "grid.md").read_text()
    assert "second of 3" in text and "behind magnitude" in text
    assert "| 90% | 20 | ACDC | 0.4500 ± 0.0300 | 0.7500 | +0.0400 | +2.0 |" in text
    assert (tmp_path / "grid.png").stat().st_size > 0
    numbers = json.loads((tmp_path / "grid.json").read_text())
    assert numbers["command"] == "a command"
    assert "a command" in capsys.readouterr().out


def test_one_seed_has_no_standard_error(tmp_path):
    one = [result for result in RESULTS if result["seed"] == 0]
    lines = {s["algorithm"]: s for s in grid_report.summarize(one)}
    assert lines["acdc"]["behind"] == pytest.approx(0.02)
    assert lines["acdc"]["behind_errors"] is None
    grid_report.write(one, tmp_path, "grid", "", {})
    text = (tmp_path / "grid.md").read_text()
    assert "nan" not in text and "| ACDC | 0.4200 |" in text


def test_nothing_to_report_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="results"):
        grid_report.write([], tmp_path, "grid", "", {})
