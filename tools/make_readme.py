"""Writes measured results into the README and guides, from the benchmarks.

python tools/make_readme.py

Between `<!-- begin: name -->` and `<!-- end: name -->` stands what the function of that
name below makes of `benchmarks/results`. A test compares the two, so that the pages
cannot go stale.
"""

import collections
import json
import math
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "questions" / "which_algorithm.md",
    ROOT / "docs" / "questions" / "block_size.md",
)
_SECTION = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _table_after(path: pathlib.Path, text: str) -> list[list[str]]:
    """The cells of the first table of a Markdown file after a text."""
    lines = path.read_text().split(text, 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


_ALGORITHMS = {
    "magnitude": "magnitude, one shot",
    "powerprop": "Powerpropagation",
    "acdc": "ACDC",
    "seqattn": "SequentialAttention++",
}
_CONTROLS = {
    "retrained": "*its blocks, retrained from scratch*",
    "narrow": "*a dense model of as many weights*",
}


def quality() -> str:
    """Log loss by algorithm, block size and sparsity; the best pruned one in bold."""
    summary = json.loads((RESULTS / "criteo_grid.json").read_text())["summary"]
    found = {
        (line["algorithm"], line["block_size"], line["sparsity"]): line
        for line in summary
    }
    # A narrow model has no blocks: it stands beside those of every size.
    for line in summary:
        if line["algorithm"] == "narrow":
            for _, size, sparsity in list(found):
                if sparsity == line["sparsity"]:
                    found["narrow", size, sparsity] = line
    cells = sorted({key[1:] for key in found if key[0] in _ALGORITHMS})
    best = {
        cell: min(
            (name for name in _ALGORITHMS if (name, *cell) in found),
            key=lambda name: found[(name, *cell)]["log_loss"],
        )
        for cell in cells
    }
    rows = [["log loss", *(f"{size} x {size}, {s:.0%}" for size, s in cells)]]
    for name, title in (_ALGORITHMS | _CONTROLS).items():
        texts = {
            cell: _loss(found[(name, *cell)]) if (name, *cell) in found else "–"
            for cell in cells
        }
        rows.append(
            [title, *(f"**{t}**" if best[c] == name else t for c, t in texts.items())]
        )
    dense = next(line for line in summary if line["algorithm"] == "dense")
    text = f"Dense: {_loss(dense)}. First of the four: {_counted(best.values())}"
    doubled = {
        cell: {
            name: found[(name, *cell)]["twice_losses"]["0"]
            for name in _ALGORITHMS
            if "twice_losses" in found[(name, *cell)]
        }
        for cell in cells
    }
    if all(len(losses) == len(_ALGORITHMS) for losses in doubled.values()):
        firsts = [min(losses, key=losses.__getitem__) for losses in doubled.values()]
        text += f"; after twice the steps (seed 0) {_counted(firsts)}"
    return f"{text}.\n\n{_table(rows)}"


def _counted(firsts) -> str:
    """How often each algorithm is first."""
    counts = collections.Counter(firsts)
    names = ", ".join(f"{_ALGORITHMS[a]} in {n}" for a, n in counts.most_common())
    return f"{names} of {counts.total()}"


def _loss(line: dict) -> str:
    return f"{line['log_loss']:.4f} ± {line['log_loss_error']:.4f}"


def break_even() -> str:
    """The share of removed blocks from which packing pays."""
    return _table(_table_after(RESULTS / "inference.md", "from which packing pays"))


def networks() -> str:
    """Whole networks, dense and packed."""
    head, *rows = _table_after(RESULTS / "inference_models.md", "whole networks")
    names = "network|eligible layers|batch|speed-up|to the fastest dense|"
    names += "dense, MB|packed, MB"
    columns = [head.index(name) for name in names.split("|")]
    return _table([[row[i] for i in columns] for row in [head, *rows]])


# The products and networks of the README, by their first cells and batch.
_SHOWN = (
    ("2048 x 2048, 90%, 64 x 64", "64"),
    ("2048 x 2048, 90%, 32 x 32", "64"),
    ("2048 x 2048, 90%, 32 x 32", "1"),
    ("ResNet50, 90%, 32 x 32", "1"),
    ("ViT-B/16, 90%, 32 x 32", "1"),
    ("MobileNetV2, 90%, 16 x 16", "1"),
    ("Criteo DNN, 90%, 20 x 20", "64"),
)


def speed() -> str:
    """Packed products and networks beside dense ones, on one thread."""
    head, *rows = _table_after(RESULTS / "peers.md", "beside other runtimes")
    names = "product|batch|packed to own dense|packed to the fastest dense"
    columns = [head.index(name) for name in names.split("|")]
    threads = head.index("threads")
    found = [[row[i] for i in columns] for row in rows if row[threads] == "1"]
    head, *rows = _table_after(RESULTS / "inference_models.md", "whole networks")
    names = "batch|speed-up|to the fastest dense"
    columns = [head.index(name) for name in names.split("|")]
    found += [[f"{row[0]}, {row[1]}", *(row[i] for i in columns)] for row in rows]
    by_case = {(row[0], row[1]): row for row in found}
    titles = ["product or network", "batch", "to own dense", "to the fastest dense"]
    return _table([titles, *(by_case[case] for case in _SHOWN)])


def choices() -> str:
    """The arms to choose from in each cell: those that are as good as the best.

    As good is a mean within the standard error of its difference to the least one.
    """
    head, *rows = _table_after(RESULTS / "quality.md", "## Losses")
    arms = {
        "our default": "the default",
        "ours, same rate, over 3/4": "`rate_power=0`",
        "ours, sparse from the start": "ours, sparse from the start",
        "magnitude, gradual": "gradual magnitude",
        "magnitude, gradual, over 1/2": "gradual magnitude over 1/2",
        "regrowth (RigL)": "regrowth",
        "dense, as many weights": "a narrower network",
    }
    shown = []
    for row in rows:
        texts = {name: row[head.index(name)] for name in (*arms, "dense")}
        losses = {
            name: tuple(map(float, text.split(" ± "))) for name, text in texts.items()
        }
        best, error = min(losses[name] for name in arms)
        good = [
            called
            for name, called in arms.items()
            if losses[name][0] - best <= math.hypot(losses[name][1], error)
        ]
        shown.append([row[0], " or ".join(good), *texts.values()])
    return _table([["network, removed, block", "choose", *arms, "dense"], *shown])


_MAKERS = {
    "choices": choices,
    "quality": quality,
    "break_even": break_even,
    "networks": networks,
    "speed": speed,
}


def render(text: str) -> str:
    """Returns the text of the page with its sections made anew.

    Raises:
      KeyError: for a section of an unknown name.
    """
    return _SECTION.sub(lambda m: f"{m[1]}\n{_MAKERS[m[2]]()}\n{m[3]}", text)


def main() -> None:
    """Rewrites the pages."""
    for path in PAGES:
        path.write_text(render(path.read_text()))


if __name__ == "__main__":
    main()
