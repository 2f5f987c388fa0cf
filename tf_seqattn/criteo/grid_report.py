"""The table and the pictures of a grid, beside the paper's numbers."""

import math
import os
import pathlib

import numpy as np
from matplotlib.figure import Figure

from tf_seqattn.criteo.models.experiment import ARMS
from tf_seqattn.criteo.paper_results import paper_loss
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error
from tf_seqattn.files import write_json, write_whole

_PRUNING = [name for name, found in ALGORITHMS.items() if found.schedule]


def last_improvement(result: dict) -> float:
    """How much the validation loss fell over the last tenth of a training, in nats.

    Args:
      result: of `experiment.train_arm`. Each end is the mean of three points of the
        curve, since a point alone is noisy.

    Example:

    >>> steps = list(range(1, 101))
    >>> curve = {"curve_steps": steps, "curve_losses": [1 / s for s in steps]}
    >>> round(last_improvement(curve), 4)
    0.001
    """
    steps, losses = np.array(result["curve_steps"]), np.array(result["curve_losses"])
    start = int(np.searchsorted(steps, 0.9 * steps[-1]))
    return float(losses[start - 1 : start + 2].mean() - losses[-3:].mean())


def _recovery(results: list[dict]) -> dict:
    """How well the blocks kept are those that read fields with signal."""
    return {
        "precision": float(np.mean([r["informative_share_of_kept"] for r in results])),
        "chance": float(np.mean([r["informative_share_of_all"] for r in results])),
        "recall": float(
            np.mean(
                [
                    r["informative_fields_read"] / r["informative_fields"]
                    for r in results
                ]
            )
        ),
    }


def _group_key(result: dict) -> tuple:
    return result["sparsity"], result["block_size"], result["algorithm"]


def _gain_of_longer(losses: dict[int, float], longer: list[dict]) -> dict:
    """What longer trainings of the same cells change: mean, error, losses by seed.

    Args:
      losses: log loss by seed.
      longer: results of trainings of twice the steps.
    """
    found = {r["seed"]: r["log_loss"] for r in longer if r["seed"] in losses}
    if not found:
        return {}
    mean, error = mean_and_error([loss - losses[s] for s, loss in found.items()])
    return {"twice": mean, "twice_error": error, "twice_losses": found}


def summarize(results: list[dict], longer: list[dict] | None = None) -> list[dict]:
    """Joins the cells of the same algorithm, sparsity and block size over the seeds.

    Args:
      results: of `experiment.train_arm`, one for each cell.
      longer: of the same cells, or some of them, trained for twice the steps.

    Returns:
      A dict for each group, ordered by sparsity, block size and loss. Beside means,
      `behind` is the mean of (loss - loss of SequentialAttention++) over pairs of the
      same seed, and `behind_errors` the same in its own standard errors; both are None
      for SequentialAttention++ and where it has no cell. `improving` is the largest
      `last_improvement` of the group. `twice`, with `twice_error`, is how much twice
      the steps change the loss, and `twice_losses` what they lead to, by seed, where
      `longer` has such cells.
    """
    twice: dict[tuple, list[dict]] = {}
    for result in longer or []:
        twice.setdefault(_group_key(result), []).append(result)
    groups: dict[tuple, dict[int, dict]] = {}
    for result in results:
        groups.setdefault(_group_key(result), {})[result["seed"]] = result
    summary = []
    for (sparsity, block_size, algorithm), seeds in groups.items():
        losses = {seed: r["log_loss"] for seed, r in seeds.items()}
        loss, error = mean_and_error(list(losses.values()))
        line = {
            "algorithm": algorithm,
            "sparsity": sparsity,
            "block_size": block_size,
            "losses": losses,
            "log_loss": loss,
            "log_loss_error": error,
            "behind": None,
            "behind_errors": None,
            "improving": max(last_improvement(r) for r in seeds.values()),
            "paper": paper_loss(algorithm, sparsity, block_size),
            **_gain_of_longer(losses, twice.get((sparsity, block_size, algorithm), [])),
        }
        for name in ("auc", "blocks_kept", "seconds"):
            line[name] = float(np.mean([r[name] for r in seeds.values()]))
        if all("informative_fields" in r for r in seeds.values()):
            line |= _recovery(list(seeds.values()))
        ours = groups.get((sparsity, block_size, "seqattn"), {})
        shared = sorted(set(seeds) & set(ours))
        if shared and algorithm != "seqattn":
            gap, gap_error = mean_and_error(
                [losses[s] - ours[s]["log_loss"] for s in shared]
            )
            line["behind"] = gap
            # Neither 0 nor unknown, as it is for one seed.
            if gap_error > 0:
                line["behind_errors"] = gap / gap_error
        summary.append(line)
    return sorted(
        summary, key=lambda s: (s["sparsity"], s["block_size"], -s["log_loss"])
    )


def _signed(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _with_error(mean: float, error: float, form: str) -> str:
    """A mean and its standard error, which one seed alone does not have."""
    text = format(mean, form)
    return text if math.isnan(error) else f"{text} ± {error:.4f}"


def _table(summary: list[dict]) -> str:
    known = any("recall" in line for line in summary)
    longer = any("twice" in line for line in summary)
    titles = ["removed", "block", "algorithm", "log loss", "AUC", "behind SA++"]
    titles += ["in s.e.", "last tenth", *["twice the steps"] * longer, "paper"]
    titles += ["precision", "recall"] if known else []
    rows = []
    for line in summary:
        # A dense model has neither.
        blocks = (
            line["block_size"] if line["algorithm"] not in ("dense", "narrow") else "–"
        )
        cells = [
            f"{line['sparsity']:.0%}",
            str(blocks),
            ARMS[line["algorithm"]].title,
            _with_error(line["log_loss"], line["log_loss_error"], ".4f"),
            f"{line['auc']:.4f}",
            _signed(line["behind"], "+.4f"),
            _signed(line["behind_errors"], "+.1f"),
            f"{-line['improving']:+.4f}",
        ]
        if longer:
            text = "–"
            if "twice" in line:
                text = _with_error(line["twice"], line["twice_error"], "+.4f")
            cells.append(text)
        cells.append(_signed(line["paper"], ".4f"))
        if "recall" in line:
            cells.append(f"{line['precision']:.2f} ({line['chance']:.2f})")
            cells.append(f"{line['recall']:.2f}")
        elif known:
            cells += ["–", "–"]
        rows.append(cells)
    return markdown_table(titles, rows)


def _place(losses: dict[str, float]) -> str:
    """The place of SequentialAttention++ among algorithms, in words."""
    order = sorted(losses, key=losses.__getitem__)
    words = ("first", "second", "third", "fourth", "fifth", "sixth")
    return words[order.index("seqattn")]


def _gap(behind: float, other: str, size: str = "") -> str:
    """How far another algorithm is behind SequentialAttention++, in words."""
    ahead = "ahead of" if behind > 0 else "behind"
    return f"{abs(behind):.4f}{size} {ahead} {ARMS[other].title}"


def _verdict_after_twice(group: list[dict]) -> str:
    """Who is first after twice the steps, of the seeds that all were trained for."""
    found = {line["algorithm"]: line.get("twice_losses", {}) for line in group}
    seeds = sorted(set.intersection(*(set(losses) for losses in found.values())))
    if not seeds:
        return ""
    losses = {a: float(np.mean([found[a][s] for s in seeds])) for a in found}
    other = min((a for a in losses if a != "seqattn"), key=losses.__getitem__)
    return (
        f" After twice the steps (seed {', '.join(map(str, seeds))}) it is "
        f"{_place(losses)}, {_gap(losses[other] - losses['seqattn'], other)}."
    )


def _verdicts(summary: list[dict]) -> list[str]:
    """For each sparsity and block size, who is first and by how much."""
    lines = []
    pruned = [line for line in summary if line["algorithm"] in _PRUNING]
    cells = sorted({(line["sparsity"], line["block_size"]) for line in pruned})
    for sparsity, block_size in cells:
        group = sorted(
            (
                line
                for line in pruned
                if (line["sparsity"], line["block_size"]) == (sparsity, block_size)
            ),
            key=lambda line: line["log_loss"],
        )
        others = [line for line in group if line["algorithm"] != "seqattn"]
        if not others or len(others) == len(group):
            continue
        place = _place({line["algorithm"]: line["log_loss"] for line in group})
        best = others[0]
        errors = best["behind_errors"]
        size = "" if errors is None else f" ({abs(errors):.1f} standard errors)"
        lines.append(
            f"- {sparsity:.0%}, blocks of {block_size}: SequentialAttention++ is "
            f"{place} of {len(group)}, "
            f"{_gap(best['behind'], best['algorithm'], size)}."
            + _verdict_after_twice(group)
        )
    return lines


def _draw(summary: list[dict], path: pathlib.Path, bayes: float | None) -> None:
    """Loss and AUC against sparsity, a column of panels for each block size."""
    pruned = [line for line in summary if line["algorithm"] not in ("dense", "narrow")]
    sizes = sorted({line["block_size"] for line in pruned})
    if not sizes:
        return
    figure = Figure(figsize=(1.5 + 4 * len(sizes), 6.5), layout="constrained")
    panels = figure.subplots(2, len(sizes), sharex=True, sharey="row", squeeze=False)
    for column, size in enumerate(sizes):
        for row, measure in enumerate(("log_loss", "auc")):
            axes = panels[row, column]
            for algorithm in ARMS:
                points = [
                    line
                    for line in summary
                    if line["algorithm"] == algorithm
                    and (algorithm == "narrow" or line["block_size"] == size)
                    and algorithm != "dense"
                ]
                if not points:
                    continue
                axes.errorbar(
                    [100 * line["sparsity"] for line in points],
                    [line[measure] for line in points],
                    [
                        line["log_loss_error"] if measure == "log_loss" else 0.0
                        for line in points
                    ],
                    color=ARMS[algorithm].colour,
                    marker="o",
                    markersize=4,
                    linewidth=2.2 if algorithm == "seqattn" else 1.3,
                    linestyle="-" if algorithm in _PRUNING else ":",
                    label=ARMS[algorithm].title,
                )
            dense = [line for line in summary if line["algorithm"] == "dense"]
            if dense:
                axes.axhline(dense[0][measure], color="black", lw=1, label="dense")
            if bayes is not None and measure == "log_loss":
                axes.axhline(bayes, color="grey", ls="--", lw=1, label="best possible")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0, column].set_title(f"blocks of {size} x {size}", loc="left")
        panels[1, column].set_xlabel("blocks removed (%)")
    panels[0, 0].set_ylabel("validation log loss (nats)")
    panels[1, 0].set_ylabel("AUC")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)


def write(
    results: list[dict],
    folder: pathlib.Path,
    name: str,
    command: str,
    data: dict,
    longer: list[dict] | None = None,
) -> list[dict]:
    """Writes `<name>.md`, `.json` and `.png`, and prints the table.

    Args:
      results: of `experiment.train_arm`, one for each cell, with `peak_bytes`.
      folder: where to write, made if needed.
      name: of the files.
      command: that made the results.
      data: what is known of the data, with `bayes_log_loss` where it is.
      longer: as `summarize` takes it.

    Returns:
      What `summarize` returned.

    Raises:
      ValueError: if there is no result.
    """
    if not results:
        raise ValueError("`results` must have at least one cell. Received: results=[]")
    summary = summarize(results, longer)
    bayes = data.get("bayes_log_loss")
    seeds = sorted({r["seed"] for r in results})
    first = results[0]
    lines = [
        "# Click models by algorithm, sparsity and block size",
        "",
        f"Made by `{command}` on {os.cpu_count()} cores: {len(results)} trainings of "
        f"{first['steps']} steps of {first['batch_size']} rows, Adam's rate from "
        f"{first['first_rate']:g} to {first['last_rate']:g}, seeds "
        f"{', '.join(map(str, seeds))}. The first layer is pruned, and its mask is "
        f"fixed in the last {first['finetune_fraction']:.0%} of the steps. Validation "
        f"log loss in nats on {first['validation_rows']:,} rows, mean ± standard error "
        "over the seeds"
        + (f"; best possible {bayes:.4f}. " if bayes is not None else ". ")
        + "`behind SA++` is over pairs of the same seed, positive where "
        "SequentialAttention++ is better, and `in s.e.` the same in its own standard "
        "errors. `last tenth` is what the loss still gained in the last tenth of the "
        "training, of the seed in which it gained most"
        + (
            ", and `twice the steps` how a training twice as long, its phases and "
            "decay stretched, changes the loss of the same seeds. "
            if longer
            else ". "
        )
        + "The paper's losses are of the real data, and only their order can be "
        "compared.",
        "",
        f"![Loss and AUC against sparsity]({name}.png)",
        "",
        *_verdicts(summary),
        "",
        _table(summary),
    ]
    if any("recall" in line for line in summary):
        lines.append(
            "`precision` is the share of the kept blocks that read an informative "
            "field, in brackets that of all blocks; `recall` the share of the "
            f"{first['informative_fields']} informative fields that a kept block reads."
        )
    peak = max((r.get("peak_bytes", 0) for r in results), default=0)
    if peak:
        lines += ["", f"A cell took {peak / 1e9:.1f} GB of memory at most."]
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    write_whole(folder / f"{name}.md", text)
    numbers = {"command": command, "data": data, "summary": summary}
    write_json(folder / f"{name}.json", numbers)
    _draw(summary, folder / f"{name}.png", bayes)
    print(text)
    return summary
