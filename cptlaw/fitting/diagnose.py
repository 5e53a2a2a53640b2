"""What the data cannot tell, in words a user can act on."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cptlaw.fitting import mixes
from cptlaw.fitting.rows import Rows
from cptlaw.fitting.saved import unmoving
from cptlaw.fitting.sensitivity import loss_jacobian
from cptlaw.fitting.solver import Problem

FLAT = 0.5  # relative standard error of a direction above which it counts as flat
SAME = 1e-6  # relative size below which a derivative, taken by differences, counts as zero
PART = 1e-3  # weight in a direction above which a parameter counts as part of it
UNDETERMINED = 100.0  # and above which it is not determined at all
DECAYED = 0.25  # share of its run's highest learning rate up to which a checkpoint counts as decayed
TIED = 0.98  # correlation of log N and log D above which they cannot be told apart


def warnings(
    problem: Problem, rows: Rows, theta: np.ndarray, unmoved: Mapping[str, tuple[str, ...]], refuted: bool = False
) -> list[str]:
    """Everything doubtful about the optimum `theta` (P,) and its design.

    Args:
      unmoved: what `rests` found.
      refuted: the data are known to break the law, so nothing is said of where its parameters came to lie.
    """
    return [
        *_unmoved(rows, unmoved),
        *([] if refuted else _bounds(problem, theta)),
        *([] if refuted else _flat(problem, rows, theta, {name for names in unmoved.values() for name in names})),
        *_design(problem, rows),
        *_schedules(problem, rows),
        *_averages(problem, rows),
        *_ratio(problem, rows, theta),
    ]


def rests(problem: Problem, rows: Rows) -> dict[str, tuple[str, ...]]:
    """Column that never varied -> the parameters that say how the loss changes with it and that nothing else tells.

    They are those whose effect on the loss depends on the column, among those that the fitted rows leave free to move
    together. Both are properties of the law and the design, so they are taken at a point where every term counts.
    """
    fitted = {name: values[rows.fitted] for name, values in rows.x.items()}
    unmoved = unmoving({name: (float(v.min()), float(v.max())) for name, v in fitted.items()})
    if not unmoved or not problem.free:
        return dict.fromkeys(unmoved, ())
    chosen = [problem.law[name] for name in problem.free]
    theta = np.array([1.0 if p.linear and p.low <= 1 <= p.high else np.mean(p.start) for p in chosen])
    slopes = loss_jacobian(problem, theta)[rows.fitted]
    scale = np.maximum(np.abs(slopes).max(axis=0), 1e-300)
    slopes = slopes / scale
    _, size, directions = np.linalg.svd(slopes, full_matrices=True)
    size = np.pad(size, (0, len(theta) - len(size)))
    loose = np.abs(directions[size <= SAME * size.max()]).max(axis=0, initial=0) > PART
    out = {}
    for name in unmoved:
        value = rows.x[name]
        share = name == "ratio" or name.startswith("w_")
        elsewhere = np.where(value < 0.5, value + 0.25, value - 0.25) if share else 1.5 * value
        other = replace(problem, x={**rows.x, name: elsewhere})
        moved = np.abs(loss_jacobian(other, theta)[rows.fitted] / scale - slopes)
        out[name] = tuple(
            n for n, free, change in zip(problem.free, loose, moved.max(axis=0)) if free and change > SAME
        )
    return out


def _unmoved(rows: Rows, unmoved: Mapping[str, tuple[str, ...]]) -> list[str]:
    out = []
    for name, resting in unmoved.items():
        value = float(rows.x[name][rows.fitted].max())
        told = f"; {', '.join(resting)} cannot be determined without it" if resting else ""
        out.append(
            f"{name} never varied ({value:g} in every fitted row), so how the loss changes with it cannot be learnt"
            f"{told}: predictions and plans at another {name} are refused"
        )
    for group in mixes.in_step(rows.frame[rows.fitted]) if any(n.startswith("w_") for n in rows.x) else ():
        out.append(
            f"the shares of {', '.join(group)} moved in step in every fitted row, so their effects cannot be told "
            "apart: predictions for mixes that move them apart are refused"
        )
    return out


def _bounds(problem: Problem, theta: np.ndarray) -> list[str]:
    low, high = problem.box
    reported = problem.reported(theta)
    at, tied = [], []
    for name, value, least, most in zip(problem.free, theta, low, high, strict=True):
        if value <= least and name in problem.law.derived:
            tied.append(f"{name} = {float(reported[name]):g}")
        elif value <= least or value >= most:
            at.append(f"{name} = {value:g}")
    out = []
    if at:
        out.append(f"on a bound: {', '.join(at)}; the data would push further, or do not need the term")
    if tied:
        out.append(
            f"at the least that the law's constraint allows: {', '.join(tied)}; the data would push it lower, so the "
            "constraint decides it"
        )
    return out


def _flat(problem: Problem, rows: Rows, theta: np.ndarray, known: set[str]) -> list[str]:
    """Directions in which the optimum is hardly determined, beyond the parameters `known` not to be."""
    low, high = problem.box
    moving = (theta > low) & (theta < high) & ~np.isin(problem.free, sorted(known))
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
    spreads = noise / np.maximum(singular, 1e-300)
    if (free := spreads > UNDETERMINED).any():
        part = names[np.abs(directions[free]).max(axis=0) > 0.3]
        out.append(
            f"flat direction: {', '.join(part)} {'are' if len(part) > 1 else 'is'} not determined at all: other values "
            "fit the rows as well; read predictions within the fitted range, not these parameters"
        )
    for s, spread, direction in zip(singular, spreads, directions, strict=True):
        if FLAT < spread <= UNDETERMINED:
            part = names[np.abs(direction) > 0.3]
            verb = "is" if len(part) == 1 else "can move together and are"
            out.append(
                f"flat direction: {' and '.join(part)} {verb} hardly determined "
                f"(relative standard error about {spread:.0%}, condition number "
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
            if 1 < levels <= 3:
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
                "add runs at another tokens-per-parameter, or fit the FLOPs alone, which they give together, with "
                "--law compute:base=false: it holds at these tokens-per-parameter only"
            )
    if "pretrain_tokens" in rows.frame and "params" in x and problem.law.name != "compute":
        d = np.log(rows.frame["pretrain_tokens"].to_numpy(float)[rows.fitted])
        n = np.log(x["params"])
        if np.isfinite(d).all() and n.std() > 0 and d.std() > 0 and abs(np.corrcoef(n, d)[0, 1]) > TIED:
            out.append(
                "params and pretrain_tokens move together in this table, so what the law says of size is of the base's "
                "pre-training too; --law compute reads both, as base FLOPs"
            )
    clusters = len(np.unique(rows.run[rows.fitted]))
    if clusters <= len(problem.free) + 2:
        out.append(f"{clusters} runs for {len(problem.free)} parameters: the bootstrap over runs is rough; add runs")
    if clusters == rows.fitted.sum() and clusters > 1:
        out.append(
            "every run has one row: if rows are checkpoints of fewer runs, map the run column (--columns run=HEADER)"
        )
    return out


def _schedules(problem: Problem, rows: Rows) -> list[str]:
    """Decayed and undecayed rows in one fit, which differ by what no law of tokens says."""
    if problem.law.factor is not None or any(name.startswith("lr_") for name in problem.law.columns):
        return []
    frame = rows.frame[rows.fitted]
    decayed = None
    if "lr" in frame and (lr := frame["lr"].to_numpy(float)).size and np.isfinite(lr).all():
        decayed = lr <= DECAYED * frame["lr"].groupby(frame["run"]).transform("max").to_numpy()
    elif "lr_anneal" in frame and np.isfinite(anneal := frame["lr_anneal"].to_numpy(float)).all():
        decayed = anneal > 0
    if decayed is None or decayed.all() or not decayed.any():
        return []
    return [
        f"{int(decayed.sum())} of {len(decayed)} rows are after the learning rate decayed and the others before, and a "
        "law of tokens takes the one for the other: give a column that tells them apart with --factor COLUMN, keep one "
        "kind with --where, or fit --law dynamics, which reads lr_sum and lr_anneal"
    ]


def _averages(problem: Problem, rows: Rows) -> list[str]:
    """Losses of averaged weights and of a step's own in one fit, which differ much as annealed and other ones do."""
    if "ema" not in rows.frame or (problem.law.factor is not None and problem.law.factor.column == "ema"):
        return []
    averaged = rows.frame["ema"][rows.fitted] > 0
    if averaged.all() or not averaged.any():
        return []
    return [
        f"{int(averaged.sum())} of {len(averaged)} rows are losses of averaged weights (ema above 0) and the others of "
        "those of a step, which a law of tokens takes for the same: tell them apart with --factor ema, or keep one "
        "kind with --where 'ema == 0'"
    ]


def _ratio(problem: Problem, rows: Rows, theta: np.ndarray) -> list[str]:
    if not problem.law.name.startswith("dcpt") or "ratio" not in rows.x:
        return []
    out = []
    if problem.law.name == "dcpt" and (zero := int(((rows.x["ratio"] == 0) & rows.fitted).sum())):
        out.append(f"{zero} rows at ratio 0, where the law does not depend on tokens")
    residual = np.log(rows.y) - np.log(problem.law.predict(problem.reported(theta), rows.x))
    noise = 1.4826 * np.median(np.abs(residual[rows.fitted]))
    rising = []
    for index in np.unique(rows.run[rows.fitted]):
        mine = (rows.run == index) & rows.fitted
        order = np.argsort(rows.x["tokens"][mine])
        loss, r = rows.y[mine][order], rows.x["ratio"][mine][0]
        # Thirds, not end points: one noisy checkpoint is no trend.
        third = len(loss) // 3
        if third and np.log(loss[-third:].mean() / loss[:third].mean()) > 2 * noise:
            rising.append((r, rows.runs[index]))
    if rising:
        worst = max(rising)
        law = problem.law.base or problem.law
        cure = "" if law.options.get("free_sign") else "; see what dcpt:free_sign=true changes, or leave these runs out"
        out.append(
            f"loss rises with tokens in {len(rising)} runs (ratio up to {worst[0]:g}, run {worst[1]}): below the "
            f"inflection ratio a positive B cannot show it{cure}"
        )
    return out
