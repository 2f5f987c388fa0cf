"""The grid from end to end: parallel, resumable, with a table beside the paper's."""

import json

import pytest

from tf_seqattn.criteo import grid
from tf_seqattn.criteo.models.experiment import Arm, pruning_schedule
from tf_seqattn.sparsity.phases import Phase

ARGUMENTS = (
    "--rows 3000 --max-categories 60 --table-size 64 --steps 20 --batch-size 64 "
    "--sparsities 0.9 --block-sizes 20 --seeds 0 --algorithms"
).split()


@pytest.mark.slow
def test_missing_cells_are_run_and_the_table_is_written(tmp_path, capsys):
    algorithms = ["dense", "seqattn", "retrained", "narrow"]
    arguments = [*ARGUMENTS, *algorithms, "--output", str(tmp_path)]
    summary = grid.main(arguments)
    assert {row["algorithm"] for row in summary} == set(algorithms)
    cells = list((tmp_path / "cells").rglob("*.json"))
    assert len(cells) == 4
    found, retrained = (
        json.loads(next(p for p in cells if p.name.startswith(name)).read_text())
        for name in ("seqattn", "retrained")
    )
    assert found["mask"] == retrained["mask"]
    assert found["peak_bytes"] > 1e8
    text = (tmp_path / "criteo_grid.md").read_text()
    assert (
        "SequentialAttention++" in text and "python -m tf_seqattn.criteo.grid" in text
    )
    assert (tmp_path / "criteo_grid.png").stat().st_size > 10_000
    changed = {path: path.stat().st_mtime_ns for path in cells}
    cells[0].unlink()
    grid.main(arguments)
    again = {p: p.stat().st_mtime_ns for p in (tmp_path / "cells").rglob("*.json")}
    assert set(again) == set(changed)
    assert sum(again[path] != changed[path] for path in cells) == 1


def test_cells_of_other_settings_are_kept_apart():
    options = grid.parse_arguments(ARGUMENTS + ["dense", "magnitude"])
    arm = Arm("dense", 0.0)
    changed = grid.parse_arguments([*ARGUMENTS, "dense", "--last-rate", "0.001"])
    assert grid.cell_file(arm, options) != grid.cell_file(arm, changed)
    # How many at a time, and which arms, do not matter to a cell.
    same = grid.parse_arguments([*ARGUMENTS, "dense", "--workers", "7"])
    assert grid.cell_file(arm, options) == grid.cell_file(arm, same)


def test_the_share_of_steps_with_a_fixed_mask():
    options = grid.parse_arguments([*ARGUMENTS, "acdc", "--finetune-fraction", "0.5"])
    assert grid.training_of(options).finetune_fraction == 0.5
    arm, default = Arm("acdc", 0.9), grid.parse_arguments([*ARGUMENTS, "acdc"])
    assert grid.cell_file(arm, options) != grid.cell_file(arm, default)
    for algorithm in ("magnitude", "acdc", "seqattn"):
        schedule = pruning_schedule(algorithm, 0.9, 1000, finetune_fraction=0.5)
        assert {schedule.phase(step) for step in range(501, 1000)} == {Phase.SPARSE}


def test_dense_ones_are_trained_once_and_retrained_ones_last():
    options = grid.parse_arguments(
        "--sparsities 0.9 0.97 --block-sizes 10 20 --seeds 0 1 "
        "--algorithms retrained dense narrow acdc".split()
    )
    arms = grid.cells(options)
    counts = {
        name: sum(arm.algorithm == name for arm in arms)
        for name in ("dense", "narrow", "acdc", "retrained")
    }
    assert counts == {"dense": 2, "narrow": 4, "acdc": 8, "retrained": 8}
    assert all(arm.algorithm == "retrained" for arm in arms[-8:])


def test_memory_limits_the_number_of_cells_at_a_time():
    options = grid.parse_arguments(["--memory-gb", "10", "--workers", "50"])
    assert 1 <= grid.num_workers(options, 1_000_000) <= 6
    assert grid.num_workers(options, 20_000_000) == 1
    with pytest.raises(ValueError, match="Raise --memory-gb"):
        grid.num_workers(options, 10**9)


def test_retraining_wants_the_blocks_first(tmp_path):
    options = grid.parse_arguments(
        [*ARGUMENTS, "retrained", "--output", str(tmp_path), "--rows", "300"]
    )
    folder = grid.prepare_data(options)
    with pytest.raises(ValueError, match="needs 'seqattn' too"):
        grid.run_missing_cells(options, folder)
