"""Checks the theory of section 2 on random problems, where it must hold and where not.

Least squares throughout. Minima are the lowest that L-BFGS, or BFGS on every set of
groups, finds from many starts; the group LASSO meets its optimality conditions to 1e-9.
The best solution of k groups is found by trying all.

    pip install 'tf-seqattn[linear]'
    python -m benchmarks.theory
"""

import itertools
import pathlib

import numpy as np

from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.theory import composite, masked, replacement
from tf_seqattn.theory.group_lasso import critical_penalty, group_lasso, norms_of
from tf_seqattn.theory.problems import LeastSquares, random_problem

RESULTS = pathlib.Path(__file__).parent / "results"
SEEDS = range(12)
PENALTIES = (0.05, 0.3)
# Below this, two minima are one.
SAME = 1e-6
WITHIN = 0.01


def lemmas() -> list[dict]:
    """The masked minimum less the regularized one."""
    rows = []
    for name, mask in masked.MASKS.items():
        differences = []
        for seed, penalty in itertools.product(SEEDS, PENALTIES):
            random = np.random.default_rng(seed)
            problem = random_problem(random, 30, 3, 2, 2)
            differences.append(
                masked.masked_minimum(problem, mask, penalty, random)
                - masked.regularized_minimum(
                    problem, mask.regularizer, penalty, random, starts=2
                )
            )
        rows.append(_row(f"masked = regularized: {name}", differences, True))
    differences = []
    for seed, penalty in itertools.product(SEEDS, PENALTIES):
        random = np.random.default_rng(seed)
        problem = random_problem(random, 30, 3, 2, 2)
        differences.append(
            masked.powerpropagation_minimum(problem, penalty, random)
            - _objective(problem, group_lasso(problem, penalty), penalty)
        )
    return [
        *rows,
        _row("Powerpropagation = group LASSO (lemma 2.3)", differences, True),
    ]


def theorem() -> list[dict]:
    """The composite minimum less the objective of the group LASSO's solution."""
    rows = []
    for (outer, q), share in itertools.product(composite.OUTERS.items(), (0.9, 0.1)):
        one, more = [], []
        for seed in SEEDS:
            random = np.random.default_rng(seed)
            problem = random_problem(random, 30, 3, 2, 2)
            none = np.zeros(problem.shape[0], bool)
            nothing = np.zeros(problem.shape)
            penalty = share * critical_penalty(problem, nothing, none)
            lasso = group_lasso(problem, penalty)
            starts = [lasso, random.normal(size=problem.shape)]
            least, _ = composite.least_found(problem, penalty, q, starts)
            is_one = np.count_nonzero(norms_of(lasso)) <= 1
            difference = least - _objective(problem, lasso, penalty)
            (one if is_one else more).append(difference)
        subadditive = outer in ("power 2/3", "log(1 + norm)")
        for differences, groups in ((one, "one group"), (more, "2 or 3 groups")):
            if differences:
                name = f"theorem 1.1, q = {outer}, penalty {share:g} tau: {groups}"
                covered = subadditive and groups == "one group"
                rows.append(_row(name, differences, covered))
    return rows


def pursuit() -> list[dict]:
    """Algorithm 2: the excess loss, as a share of the first one, after its rounds."""
    rows = []
    for data, correlation, wanted in ((2000, 0.0, 1), (2000, 0.0, 2), (30, 0.9, 4)):
        for relaxed in (True, False):
            excess, needed, taken, size = [], [], [], 0
            for seed in SEEDS:
                random = np.random.default_rng(seed)
                problem = random_problem(random, data, 16, 1, 6, correlation, 1.0)
                least, largest = replacement.curvatures(problem)
                size = replacement.needed_support(wanted, largest / least)
                if relaxed and size >= 16:
                    continue
                size = size if relaxed else wanted
                support = np.isin(np.arange(16), random.choice(16, size, replace=False))
                best = min(
                    problem.loss(problem.fit(np.array(s)))[0]
                    for s in itertools.combinations(range(16), wanted)
                )
                gap = problem.loss(problem.fit(support))[0] - best
                if gap <= 0:
                    continue
                bound = replacement.needed_rounds(
                    wanted, largest / least, gap, WITHIN * gap
                )
                rounds = min(bound, 100)
                losses = np.array(replacement.replace_rounds(problem, support, rounds))
                lowest = np.minimum.accumulate(losses)
                excess.append(float((lowest[-1] - best) / gap))
                reached = np.flatnonzero(lowest <= best + WITHIN * gap)
                needed.append(bound)
                taken.append(int(reached[0]) if len(reached) else None)
            name = f"algorithm 2, k = {wanted}, {data} rows, "
            name += f"correlation {correlation:g}, "
            name += "k' of theorem B.3" if relaxed else "k' = k"
            if not excess:
                rows.append(
                    {
                        "statement": name,
                        "problems": 0,
                        "covered": relaxed,
                        "note": f"the bound wants more than all groups: k' = {size}",
                    }
                )
                continue
            row = _row(name, excess, relaxed, within=WITHIN)
            done = [t for t in taken if t is not None]
            row["note"] = (
                f"rounds {np.median(done):g} where the bound says "
                f"{np.median(needed):g} (medians)"
            )
            rows.append(row)
    return rows


def _objective(problem: LeastSquares, found: np.ndarray, penalty: float) -> float:
    return problem.loss(found)[0] + penalty * float(norms_of(found).sum())


def _row(
    statement: str, differences: list[float], covered: bool, within: float = SAME
) -> dict:
    """One line: how often it holds, and the largest difference."""
    # An excess may be negative: a larger support fits better.
    sizes = differences if within > SAME else np.abs(differences)
    worst = differences[int(np.argmax(sizes))]
    good = np.array(sizes) <= within
    return {
        "statement": statement,
        "problems": len(differences),
        "covered": covered,
        "holds": int(np.sum(good)),
        "worst": float(worst),
    }


def main() -> None:
    """Runs all checks and writes the table."""
    rows = []
    with progress_bar(3, "parts", "Theory") as bar:
        for part in (lemmas, theorem, pursuit):
            rows += part()
            bar.update(1)
    table = markdown_table(
        ["statement", "assumptions hold", "it holds on", "worst difference", "note"],
        [
            [
                row["statement"],
                "yes" if row["covered"] else "no",
                f"{row['holds']} of {row['problems']}" if row["problems"] else None,
                f"{row['worst']:.1e}" if row["problems"] else None,
                row.get("note", ""),
            ]
            for row in rows
        ],
    )
    text = (
        "# The theory of section 2, checked\n\n"
        f"`python -m benchmarks.theory`: random least squares, {len(SEEDS)} seeds, for "
        f"the lemmas at penalties {' and '.join(map(str, PENALTIES))}. For lemmas and "
        "theorem a difference is one of minima (the masked or composite one less the "
        f"regularized or LASSO one), and it holds if that is at most {SAME:g}. For "
        "algorithm 2 it is the excess over the best loss of k groups, as a share of "
        f"the first excess, and it holds if that is at most {WITHIN:g} within the "
        "rounds of the bound, or 100. Where the assumptions do not hold, a statement "
        "may fail; where they do, it must not.\n\n"
        f"{table}"
    )
    write_whole(RESULTS / "theory.md", text)
    write_json(RESULTS / "theory.json", rows)
    print(text)


if __name__ == "__main__":
    main()
