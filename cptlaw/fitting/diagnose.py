"""What the data cannot tell, in words a user can act on."""

import numpy as np

from cptlaw.fitting.rows import Rows
from cptlaw.fitting.sensitivity import loss_jacobian
from cptlaw.fitting.solver import Problem

FLAT = 0.5  # relative standard error of a direction above which it counts as flat
TIED = 0.98  # correlation of log N and log D above which they cannot be told apart


def warnings(problem: Problem, rows: Rows, theta: np.ndarray) -> list[str]:
    """Everything doubtful about the optimum `theta` and the design it came from."""
    return [*_bounds(problem, theta), *_flat(problem, rows, theta), *_design(problem, rows), *_ratio(problem, rows)]


def _bounds(problem: Problem, theta: np.ndarray) -> list[str]:
    low, high = problem.box
    at = [f"{n} = {v:g}" for n, v, lo, hi in zip(problem.free, theta, low, high, strict=True) if v <= lo or v >= hi]
    return [f"on a bound: {', '.join(at)}; the data would push further, or do not need the term"] * bool(at)


def _flat(problem: Problem, rows: Rows, theta: np.ndarray) -> list[str]:
    low, high = problem.box
    moving = (theta > low) & (theta < high)
    if not moving.any():
        return []
    names = np.array(problem.free)[moving]
    predicted = problem.law.predict(problem.reported(theta), {k: v[rows.fitted] for k, v in rows.x.items()})
    # d log loss / d log |parameter|, so that a direction's spread is relative.
    jacobian = loss_jacobian(problem, theta)[rows.fitted][:, moving] * theta[moving] / predicted[:, None]
    residual = np.log(rows.y[rows.fitted]) - np.log(predicted)
    noise = 1.4826 * np.median(np.abs(residual)) + 1e-12
    _, singular, directions = np.linalg.svd(jacobian, full_matrices=False)
    out = []
    for s, direction in zip(singular, directions, strict=True):
        spread = noise / max(s, 1e-300)
        if spread > FLAT:
            part = names[np.abs(direction) > 0.3]
            verb = "is" if len(part) == 1 else "can move together and are"
            out.append(
                f"flat direction: {' and '.join(part)} {verb} hardly determined "
                f"(relative standard error about {min(spread, 1e4):.0%}, condition number "
                f"{singular[0] / max(s, 1e-300):.1g}); "
                "read predictions within the fitted range, not these parameters"
            )
    return out


def _design(problem: Problem, rows: Rows) -> list[str]:
    out = []
    x = {k: v[rows.fitted] for k, v in rows.x.items()}
    free = set(problem.free)
    for column, names, word in (
        ("params", ("E", "A", "alpha"), "sizes"),
        ("tokens", ("E", "B", "beta"), "token counts"),
    ):
        unknown = [n for n in problem.free if n.split("[")[0] in names]
        if column in x and len({n.split("[")[0] for n in unknown}) == 3:
            levels = len(np.unique(x[column]))
            if levels <= 3:
                out.append(
                    f"{levels} {word} give {levels} equations for {', '.join(names)}: "
                    f"{'nothing is left to check them with' if levels == 3 else 'they cannot be told apart'}; "
                    f"add {word}, or fix one ({names[2]}) from elsewhere"
                )
    if {"params", "tokens"} <= set(x) and {"alpha", "beta"} <= {n.split("[")[0] for n in free}:
        n, d = np.log(x["params"]), np.log(x["tokens"])
        if n.std() > 0 and d.std() > 0 and abs(np.corrcoef(n, d)[0, 1]) > TIED:
            out.append(
                "params and tokens move together in this table, which ties alpha to beta; "
                "add runs at another tokens-per-parameter"
            )
    for column in ("ratio", "unique_tokens", "ppl_mean", "ppl_std", "lr_sum"):
        if column in x and len(np.unique(x[column])) == 1:
            out.append(f"{column} has one value only ({x[column][0]:g}): how loss changes with it cannot be learnt")
    clusters = len(np.unique(rows.run[rows.fitted]))
    if clusters <= len(problem.free) + 2:
        out.append(f"{clusters} runs for {len(problem.free)} parameters: the bootstrap over runs is rough; add runs")
    if clusters == rows.fitted.sum() and clusters > 1:
        out.append(
            "every run has one row: if rows are checkpoints of fewer runs, map the run column (--columns run=HEADER)"
        )
    return out


def _ratio(problem: Problem, rows: Rows) -> list[str]:
    if not problem.law.name.startswith("dcpt") or "ratio" not in rows.x:
        return []
    out = []
    if problem.law.name == "dcpt" and (zero := int(((rows.x["ratio"] == 0) & rows.fitted).sum())):
        out.append(f"{zero} rows at ratio 0, where the law does not depend on tokens")
    rising = []
    for index in np.unique(rows.run[rows.fitted]):
        mine = (rows.run == index) & rows.fitted
        order = np.argsort(rows.x["tokens"][mine])
        loss, r = rows.y[mine][order], rows.x["ratio"][mine][0]
        # Thirds, not end points: one noisy checkpoint is no trend.
        third = len(loss) // 3
        if third and loss[-third:].mean() > loss[:third].mean():
            rising.append((r, rows.runs[index]))
    if rising:
        worst = max(rising)
        out.append(
            f"loss rises with tokens in {len(rising)} runs (ratio up to {worst[0]:g}, run {worst[1]}): below the "
            "inflection ratio a positive B cannot show it; fit dcpt:free_sign=true or leave these runs out"
        )
    return out
