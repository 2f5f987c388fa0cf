"""Compares ways to select features of linear models on real tables.

Every way selects on the training folds alone. Then one and the same model, ridge or
logistic regression of scikit-learn, is fitted to the selected features and measured on
the fold that was held out: two shuffles of five folds. Nothing was tuned for any of
them. One thread each; the seconds are of the selection alone.

    pip install 'tf-seqattn[linear]' && pip install --no-deps abess skglm numba ISLP
    python -m benchmarks.linear_selection
"""

import importlib.metadata
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import abess
import numpy as np
import pandas
import skglm
import sklearn.datasets as datasets
import threadpoolctl
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import RFE
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    OrthogonalMatchingPursuit,
    Ridge,
)
from sklearn.metrics import log_loss
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

import tf_seqattn as sa
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
COMMAND = "python -m benchmarks.linear_selection"
OURS = "sequential attention"
_PENALTIES = 60


class Table(NamedTuple):
    """A task.

    Attributes:
      x: floats `(rows, features)`.
      y: floats, or classes.
      is_classes: whether they are classes.
      groups: int `(features,)`: features that are selected together.
      numbers: how many groups to select.
    """

    x: np.ndarray
    y: np.ndarray
    is_classes: bool
    groups: np.ndarray
    numbers: tuple[int, ...]


def _single(x, y, is_classes: bool, numbers: tuple[int, ...]) -> Table:
    x = np.asarray(x, float)
    return Table(x, np.asarray(y), is_classes, np.arange(x.shape[1]), numbers)


def _of_islp(name: str) -> pandas.DataFrame:
    """A table that comes inside the package ISLP, which is not imported."""
    files = importlib.metadata.distribution("ISLP")
    return pandas.read_csv(str(files.locate_file(f"ISLP/data/{name}.csv")))


def _boston() -> tuple[np.ndarray, np.ndarray]:
    table = _of_islp("Boston")
    return table.drop(columns="medv").to_numpy(float), table["medv"].to_numpy(float)


def _hitters() -> Table:
    """Baseball salaries; a group is one column with its square, or one category."""
    table = _of_islp("Hitters").dropna()
    y = np.log(table.pop("Salary").to_numpy(float))
    columns, groups = [], []
    for number, name in enumerate(table):
        values = table[name]
        if values.dtype.kind in "if":
            scaled = (values - values.mean()) / values.std()
            made = [scaled, scaled**2]
        else:
            made = [values == value for value in sorted(values.unique())[1:]]
        columns += made
        groups += [number] * len(made)
    x = np.stack([np.asarray(c, float) for c in columns], axis=1)
    return Table(x, y, False, np.array(groups), (2, 4, 8))


def _khan() -> Table:
    """Tumours: 83 rows of 2,308 genes."""
    parts = ("train", "test")
    x = np.vstack([_of_islp(f"Khan_x{p}").to_numpy(float)[:, -2308:] for p in parts])
    y = np.hstack([_of_islp(f"Khan_y{p}").to_numpy()[:, -1] for p in parts])
    return _single(x, y, True, (3, 10))


def tables() -> dict[str, Table]:
    """The tasks by name."""
    diabetes, diabetes_y = datasets.load_diabetes(return_X_y=True)
    boston, boston_y = _boston()
    products = PolynomialFeatures(2, include_bias=False)
    digits, digits_y = datasets.load_digits(return_X_y=True)
    rows_of_images = np.arange(64) // 8
    return {
        "diabetes": _single(diabetes, diabetes_y, False, (2, 5)),
        "diabetes, products": _single(
            products.fit_transform(diabetes), diabetes_y, False, (3, 8, 15)
        ),
        "Boston, products": _single(
            products.fit_transform(StandardScaler().fit_transform(boston)),
            boston_y,
            False,
            (5, 10, 20),
        ),
        "Hitters, groups": _hitters(),
        "breast cancer": _single(
            *datasets.load_breast_cancer(return_X_y=True), True, (2, 5, 10)
        ),
        "wine": _single(*datasets.load_wine(return_X_y=True), True, (2, 4)),
        "digits": _single(digits, digits_y, True, (5, 10, 20)),
        "digits, rows of pixels": Table(digits, digits_y, True, rows_of_images, (2, 4)),
        "Khan": _khan(),
    }


# The ways to select: each returns bools `(features,)`, given scaled features.

Select = Callable[[np.ndarray, np.ndarray, Table, int], np.ndarray]


def _attention(x, y, table: Table, number: int, per_round: int = 1) -> np.ndarray:
    selector = sa.linear.SequentialAttentionSelector(
        number,
        groups=table.groups,
        n_per_round=per_round,
        loss="log" if table.is_classes else "squared",
    )
    return selector.fit(x, y).support_


def _attention_in_two(x, y, table: Table, number: int) -> np.ndarray:
    return _attention(x, y, table, number, per_round=-(-number // 2))


def _pursuit(x, y, table: Table, number: int) -> np.ndarray | None:
    if table.is_classes or _has_groups(table):
        return None
    return OrthogonalMatchingPursuit(n_nonzero_coefs=number).fit(x, y).coef_ != 0


def _norms(coefficients: np.ndarray, table: Table) -> np.ndarray:
    """Norm of the coefficients of each group."""
    squares = np.sum(np.atleast_2d(coefficients) ** 2, axis=0)
    return np.sqrt(np.bincount(table.groups, squares))


def _best_of_path(coefficients_at, table: Table, number: int) -> np.ndarray:
    """The groups of the first point of a path of penalties that has enough of them."""
    for share in np.geomspace(1.0, 1e-3, _PENALTIES):
        norms = _norms(coefficients_at(share), table)
        if np.count_nonzero(norms) >= number:
            break
    kept = np.argsort(-norms, kind="stable")[:number]
    return np.isin(table.groups, kept)


def _lasso(x, y, table: Table, number: int) -> np.ndarray:
    if table.is_classes:
        least = 1 / np.abs(x.T @ (np.eye(y.max() + 1)[y] - 0.5)).max()
        coefficients_at = _logistic_lasso(x, y, least)
    elif _has_groups(table):
        coefficients_at = _group_lasso(x, y - y.mean(), table)
    else:
        largest = np.abs(x.T @ (y - y.mean())).max() / len(y)
        model = Lasso(warm_start=True)

        def coefficients_at(share):
            return model.set_params(alpha=share * largest).fit(x, y).coef_

    return _best_of_path(coefficients_at, table, number)


def _logistic_lasso(x, y, least: float):
    """One class against the rest, each with its own L1 penalty."""

    def coefficients_at(share):
        rows = []
        for value in np.unique(y):
            model = LogisticRegression(
                C=least / share, l1_ratio=1.0, solver="liblinear"
            )
            rows.append(model.fit(x, y == value).coef_[0])
        return np.stack(rows)

    return coefficients_at


def _group_lasso(x, y, table: Table):
    groups = [np.flatnonzero(table.groups == g) for g in np.unique(table.groups)]
    largest = max(np.linalg.norm(x[:, g].T @ y) for g in groups) / len(y)
    lists = [[int(i) for i in g] for g in groups]

    def coefficients_at(share):
        return skglm.GroupLasso(lists, alpha=share * largest).fit(x, y).coef_

    return coefficients_at


def _best_subset(x, y, table: Table, number: int) -> np.ndarray:
    kinds = (abess.LinearRegression, abess.LogisticRegression)
    kind = kinds[table.is_classes]
    if table.is_classes and y.max() > 1:
        kind = abess.MultinomialRegression
    # It refuses constant columns.
    varies = x.std(axis=0) > 0
    groups = np.unique(table.groups[varies], return_inverse=True)[1]
    model = kind(support_size=number, group=groups).fit(x[:, varies], y)
    kept = np.any(model.coef_.reshape(np.count_nonzero(varies), -1) != 0, axis=1)
    return np.isin(table.groups, table.groups[varies][kept])


def _elimination(x, y, table: Table, number: int) -> np.ndarray | None:
    if _has_groups(table):
        return None
    model = LogisticRegression(max_iter=500) if table.is_classes else LinearRegression()
    step = 1 if x.shape[1] < 200 else 0.1
    return RFE(model, n_features_to_select=number, step=step).fit(x, y).support_


def _at_random(x, y, table: Table, number: int) -> np.ndarray:
    random = np.random.default_rng(len(y) + int(abs(x).sum()))
    kept = random.choice(np.unique(table.groups), number, replace=False)
    return np.isin(table.groups, kept)


WAYS: dict[str, Select] = {
    OURS: _attention,
    "the same, two rounds": _attention_in_two,
    "matching pursuit (OMP)": _pursuit,
    "lasso, group lasso": _lasso,
    "best subset (abess)": _best_subset,
    "elimination (RFE)": _elimination,
    "at random": _at_random,
}


def _has_groups(table: Table) -> bool:
    return len(np.unique(table.groups)) < len(table.groups)


def error(x, y, held_x, held_y, is_classes: bool) -> float:
    """Of the final model: log loss in nats, or mean square over the variance."""
    if is_classes:
        model = LogisticRegression(max_iter=2000).fit(x, y)
        return float(
            log_loss(held_y, model.predict_proba(held_x), labels=model.classes_)
        )
    model = Ridge(alpha=1e-3 * len(y)).fit(x, y)
    return float(np.mean((model.predict(held_x) - held_y) ** 2) / np.var(y))


def folds(table: Table):
    """Rows to train on and rows held out, ten times."""
    kind = RepeatedStratifiedKFold if table.is_classes else RepeatedKFold
    return list(kind(n_splits=5, n_repeats=2, random_state=0).split(table.x, table.y))


def measure(name: str, table: Table) -> list[dict]:
    """Every way and number of one task, on every fold."""
    y = np.unique(table.y, return_inverse=True)[1] if table.is_classes else table.y
    found = []
    for fold, (train, held) in enumerate(folds(table)):
        scaler = StandardScaler().fit(table.x[train])
        x, held_x = scaler.transform(table.x[train]), scaler.transform(table.x[held])
        everything = error(x, y[train], held_x, y[held], table.is_classes)
        for number in table.numbers:
            for way, choose in WAYS.items():
                begun = time.perf_counter()
                kept = choose(x, y[train], table, number)
                seconds = time.perf_counter() - begun
                if kept is None:
                    continue
                assert kept.any(), (name, way)
                value = error(
                    x[:, kept], y[train], held_x[:, kept], y[held], table.is_classes
                )
                found.append(
                    {
                        "task": name,
                        "number": number,
                        "way": way,
                        "fold": fold,
                        "error": value,
                        "seconds": seconds,
                        "selected": int(len(np.unique(table.groups[kept]))),
                    }
                )
            found.append(
                {
                    "task": name,
                    "number": number,
                    "way": "all features",
                    "fold": fold,
                    "error": everything,
                }
            )
    return found


def report(results: pandas.DataFrame, sizes: dict[str, str]) -> str:
    """The page of results."""
    ways = [*WAYS, "all features"]
    errors = results.groupby(["task", "number", "way"], sort=False)["error"]
    means = errors.mean().unstack("way")[ways]
    spread = (errors.std() / np.sqrt(errors.count())).unstack("way")[ways]
    rows = []
    for index in means.index:
        best = means.loc[index, list(WAYS)].min()
        cells = []
        for way in ways:
            mean = means.loc[index, way]
            text = f"{mean:.3f} ± {spread.loc[index, way]:.3f}"
            text = f"**{text}**" if mean == best and way in WAYS else text
            cells.append(None if np.isnan(mean) else text)
        rows.append([f"{index[0]}, {index[1]} {sizes[index[0]]}", *cells])
    seconds = results.groupby(["task", "number", "way"], sort=False)["seconds"]
    medians = seconds.median().unstack("way")[list(WAYS)]
    times = [
        [f"{i[0]}, {i[1]}", *(None if np.isnan(v) else f"{v:.3f}" for v in row)]
        for i, row in zip(medians.index, medians.to_numpy(), strict=True)
    ]
    return (
        "# Selecting features of linear models\n\n"
        f"`{COMMAND}`: two shuffles of five folds, one thread, nothing tuned. Errors "
        "are those of one final model on the rows held out: log loss in nats for "
        "classes, mean square over the variance for numbers; lower is better, the "
        "least is bold, ± is a standard error over the folds (they share rows, so it "
        "is a little too small). Sequential attention has its default penalty, which "
        "was chosen on made tables alone; its ridge was chosen for the iterations that "
        "wine, breast cancer and digits take.\n\n"
        f"## Ours beside each\n\n{_duels(results)}\n"
        f"## Held-out error\n\n{markdown_table(['task, how many', *ways], rows)}\n"
        "## Seconds of a selection, median\n\n"
        f"{markdown_table(['task, how many', *WAYS], times)}"
    )


def _duels(results: pandas.DataFrame) -> str:
    """Counts of tasks and numbers where ours is ahead or behind, and time ratios."""
    keys = ["task", "number", "fold"]
    wide = results.pivot_table(index=keys, columns="way", values="error", sort=False)
    seconds = results.pivot_table(
        index=keys, columns="way", values="seconds", sort=False
    )
    errors = (wide.rdiv(wide[OURS], axis=0)).groupby(level=[0, 1]).mean().mean()
    rows = []
    for way in list(WAYS)[1:]:
        difference = (wide[OURS] - wide[way]).dropna()
        cells = difference.groupby(level=["task", "number"])
        scaled = cells.mean() / (cells.std() / np.sqrt(cells.count()))
        # Equal choices in every fold have neither difference nor spread.
        scaled = scaled.fillna(0.0)
        ratio = np.exp(np.log(seconds[OURS] / seconds[way]).dropna().mean())
        rows.append(
            [
                way,
                len(scaled),
                int(np.sum(scaled < -2)),
                int(np.sum(scaled > 2)),
                f"{errors[way]:.3f}",
                f"{ratio:.1f}",
            ]
        )
    return markdown_table(
        [
            "against",
            "cells",
            "ours ahead by over 2 standard errors",
            "ours behind by over 2",
            "our error over its, mean of the cells",
            "our seconds over its, geometric mean",
        ],
        [[str(cell) for cell in row] for row in rows],
    )


def main() -> None:
    """Measures every task and writes the page."""
    warnings.simplefilter("error", ConvergenceWarning)
    # The peers' own stops are theirs to mend.
    warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")
    warnings.filterwarnings("ignore", category=ConvergenceWarning, module="skglm")
    every = tables()
    # It compiles when it is first called.
    groups = every["Hitters, groups"]
    _lasso(groups.x, groups.y, groups, 2)
    found, sizes = [], {}
    with (
        threadpoolctl.threadpool_limits(1),
        progress_bar(len(every), "tables", "Selection") as bar,
    ):
        for name, table in every.items():
            groups = len(np.unique(table.groups))
            sizes[name] = f"of {groups}, {len(table.x)} rows"
            found += measure(name, table)
            bar.update(1)
    text = report(pandas.DataFrame(found), sizes)
    write_whole(RESULTS / "linear_selection.md", text)
    write_json(RESULTS / "linear_selection.json", found)
    print(text)


if __name__ == "__main__":
    main()
