"""From a runs table to the arrays a fit reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cptlaw import runs
from cptlaw.fitting.saved import FitError
from cptlaw.laws import Law


@dataclass(frozen=True)
class Rows:
    """The rows of one fit.

    Attributes:
      frame: the rows of the runs table.
      x: column of the law -> (rows,).
      y: observed loss (rows,), nats per token.
      run: index of each row's run in `runs` (rows,).
      runs: the sorted run ids of the WHOLE table, so that fits of two corpora resample the same runs.
      held_out: whether a row is kept for scoring (rows,).
      precision: how much each row weighs (rows,), with mean 1 over the fitted rows; None gives all the same weight.
    """

    frame: pd.DataFrame
    x: dict[str, np.ndarray]
    y: np.ndarray
    run: np.ndarray
    runs: tuple[str, ...]
    held_out: np.ndarray
    precision: np.ndarray | None = None

    @property
    def fitted(self) -> np.ndarray:
        """Rows that are fitted."""
        return ~self.held_out

    @property
    def weights(self) -> np.ndarray:
        """What each row weighs in the objective, (rows,): 0 if held out."""
        return self.fitted * (1.0 if self.precision is None else self.precision)


def evaluated(table: pd.DataFrame, eval: str | Sequence[str] | None) -> tuple[str, ...]:
    """The corpora asked for; the only one of the table when none is."""
    present = sorted(map(str, table["eval"].dropna().unique()))
    if eval is None:
        if len(present) > 1:
            raise FitError(f"the table evaluates {', '.join(present)}: choose one with --eval")
        return tuple(present)
    wanted = (eval,) if isinstance(eval, str) else tuple(eval)
    if absent := [name for name in wanted if name not in present]:
        unnamed = "; a table without a column eval names its corpus with --eval CORPUS" * (present == ["loss"])
        raise FitError(f"no rows with eval {', '.join(absent)}; the table evaluates {', '.join(present)}{unnamed}")
    return wanted


def collect(table: pd.DataFrame, law: Law, corpora: Sequence[str], hold_out: str | ArrayLike | None = None) -> Rows:
    """The usable rows of `corpora` with the law's columns. Failed runs and rows at zero tokens are left out.

    Raises:
      FitError: no row is usable, the hold-out is no mask or takes all, or a column of the law is absent or empty.
    """
    held = pd.Series(False, index=table.index)
    if isinstance(hold_out, str):
        held[runs.select(table, hold_out, "hold-out").index] = True
    elif hold_out is not None:
        mask = np.asarray(hold_out)
        if mask.shape != (len(table),) or mask.dtype != bool:
            raise FitError(f"hold_out must be a query or {len(table)} booleans, not {mask.dtype} {mask.shape}")
        held[:] = mask
    frame = usable(table, corpora)
    x = {name: column(frame, name, law, corpora) for name in law.columns}
    everyone = tuple(sorted(map(str, table["run"].unique())))
    position = {name: i for i, name in enumerate(everyone)}
    index = np.array([position[name] for name in frame["run"].astype(str)])
    held_rows = held[_usable(table, corpora)].to_numpy()
    if held_rows.all():
        raise FitError("the hold-out takes every row; nothing is left to fit")
    return Rows(frame, x, frame["loss"].to_numpy(float), index, everyone, held_rows)


def usable(table: pd.DataFrame, corpora: Sequence[str]) -> pd.DataFrame:
    """The rows of `corpora`, without failed runs and rows at zero tokens.

    Raises:
      FitError: there are none.
    """
    frame = table[_usable(table, corpora)]
    if frame.empty:
        raise FitError(f"no usable rows with eval {', '.join(corpora)}: all failed or at zero tokens")
    return frame


def _usable(table: pd.DataFrame, corpora: Sequence[str]) -> pd.Series:
    found = runs.finished(table) & table["eval"].isin(list(corpora))
    return found & (table["tokens"] > 0) if "tokens" in table else found


def column(frame: pd.DataFrame, name: str, law: Law, corpora: Sequence[str]) -> np.ndarray:
    """A column that a law reads, (rows,): "corpus" is the index into `corpora`, "ratio" the row's own `w_<eval>`.

    Raises:
      FitError: the table lacks it, or it is empty in a row.
    """
    if name == "corpus":
        return frame["eval"].map({c: i for i, c in enumerate(corpora)}).to_numpy(float)
    own = {"ratio": "w_", "unique_tokens": "unique_tokens_"}.get(name)
    if own and not (name in frame and frame[name].notna().all()):
        values = np.full(len(frame), np.nan)
        for corpus in corpora:
            mask = (frame["eval"] == corpus).to_numpy()
            if name == "ratio":
                values[mask] = runs.ratio(frame, corpus)[mask]
            elif own + corpus in frame:
                values[mask] = frame[own + corpus][mask]
    elif name in frame:
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(float)
    else:
        values = np.full(len(frame), np.nan)
    bad = ~np.isfinite(values)
    if bad.all():
        raise FitError(f"law {law.name} reads {name!r}, which the table lacks{runs.missing(frame, name)}")
    if bad.any():
        raise FitError(
            f"law {law.name} reads {name!r}, which is empty in row {frame.index[np.argmax(bad)]}; drop the row"
        )
    return values


def domains(frame: pd.DataFrame) -> list[str] | None:
    """The domain of each row, where the table pools several (`runs.by_domain`)."""
    return frame["mixed_in"].astype(str).tolist() if "mixed_in" in frame else None


def bases(frame: pd.DataFrame) -> list[str] | None:
    """Ids of the base models, where the table names them; a base of another size is another one."""
    if "base" not in frame:
        return None
    sizes = frame["params"].to_numpy(float) if "params" in frame else np.zeros(len(frame))
    return [f"{size:g} {name}" for size, name in zip(sizes, frame["base"].astype(str))]
