"""Remedies for a law that its table rejects, each tried: another law, late checkpoints only, fewer shares.

A remedy is judged on forward questions: the law is fitted with and without it to what came before, and both predict the
same later rows. So a remedy that leaves rows out gains nothing by leaving out those that are hard to predict.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fitting import answers, choose, folds, forward, remedies
from cptlaw.fitting.answers import Answer
from cptlaw.fitting.forward import Question
from cptlaw.fitting.rows import Rows, collect
from cptlaw.fitting.verdicts import Tried
from cptlaw.laws import Law
from cptlaw.progress import bar_of_fits

OTHER = "another law"
AXES = ("size", "tokens", "mix")
SECONDS = 60.0  # after which no further remedy is tried
LATE = 1 / 3  # share of a run's checkpoints that "late checkpoints only" leaves out, and the fewest it must have
LEAST_CHECKPOINTS, LEAST_SHARES = 4, 4
LEAST_ROWS = 2  # of a question that a remedy must leave to be judged
ALIKE = 1e-6  # relative difference of errors below which two laws are one


@dataclass(frozen=True)
class _Remedy:
    """Another law, or a mask of the rows kept (rows,)."""

    what: str
    flag: str
    law: Law | None = None
    kept: np.ndarray | None = None


def tried(
    table: pd.DataFrame,
    law: Law,
    corpora: Sequence[str],
    *,
    fixed: Mapping[str, float] | None = None,
    seed: int = 0,
    progress: bool = False,
    seconds: float = SECONDS,
) -> tuple[Tried, ...]:
    """Every remedy for `law` on the losses of `corpora`, one corpus after the other.

    Args:
      table: the rows that were fitted.
      fixed: parameters of the law that were held.
      seconds: begins no fit after so many.
    """
    until = time.monotonic() + seconds
    out: list[Tried] = []
    for corpus in corpora:
        rows = collect(table, law, (corpus,))
        rows = replace(rows, frame=rows.frame.reset_index(drop=True))
        out += _of_corpus(rows, corpus, law, dict(fixed or {}), seed, progress, until)
    return tuple(out)


def _of_corpus(
    rows: Rows, corpus: str, law: Law, fixed: dict[str, float], seed: int, progress: bool, until: float
) -> list[Tried]:
    found = list(_remedies(rows, corpus, law))
    asked = _questions(rows)
    held = {name: value for name, value in fixed.items() if name in law.names}
    out: list[Tried] = []
    with bar_of_fits(progress, (len(found) + 1) * len(asked), "remedies") as tick:

        def answer(law: Law, rows: Rows, questions: Sequence[Question], fixed: dict[str, float]) -> list[Answer]:
            said = []
            for question in questions:
                if time.monotonic() > until:
                    raise UserError("there was no time left")
                said.append(answers.of_law(law, rows, question, seed, fixed))
                if tick:
                    tick(1)
            return said

        try:
            before = answer(law, rows, asked, held)
        except UserError as error:
            return [Tried(corpus, one.what, one.flag, why=str(error)) for one in found]
        for one in found:
            try:
                if one.law is not None:
                    own, questions, masks = collect(rows.frame, one.law, (corpus,)), asked, [q.test for q in asked]
                    after = answer(one.law, own, questions, {})
                else:
                    assert one.kept is not None
                    questions = [replace(q, train=q.train & one.kept, test=q.test & one.kept) for q in asked]
                    if not all(q.test.sum() >= LEAST_ROWS for q in questions):
                        raise UserError("it leaves nothing to be judged on")
                    masks = [q.test for q in questions]
                    after = answer(law, rows, questions, held)
                out.append(_judged(one, corpus, rows, asked, masks, before, after))
            except UserError as error:
                out.append(Tried(corpus, one.what, one.flag, why=str(error)))
    return _distinct(out)


def _judged(
    one: _Remedy,
    corpus: str,
    rows: Rows,
    asked: Sequence[Question],
    masks: Sequence[np.ndarray],
    before: Sequence[Answer],
    after: Sequence[Answer],
) -> Tried:
    """Errors with and without the remedy, on the rows that both predict: means over rows, then questions."""
    errors = []
    for question, mask, old, new in zip(asked, masks, before, after):
        log_y = np.log(rows.y[mask])
        both = mask[question.test]
        errors.append([
            [np.abs(old.alone[both] - log_y).mean(), np.abs(new.alone - log_y).mean()],
            [np.abs(old.corrected.mean[both] - log_y).mean(), np.abs(new.corrected.mean - log_y).mean()],
        ])  # fmt: skip
    law, corrected = (tuple(map(float, pair)) for pair in np.mean(errors, axis=0))
    if not np.isfinite([*law, *corrected]).all():
        raise UserError("it predicts no finite loss")
    counted = np.any(masks, axis=0)
    return Tried(corpus, one.what, one.flag, law, corrected, int(counted.sum()), len(np.unique(rows.run[counted])))


def _distinct(found: list[Tried]) -> list[Tried]:
    """Laws that come to the same under the first's name."""
    out: list[Tried] = []
    for one in found:
        for i, other in enumerate(out):
            both = one.law and other.law and one.remedy == other.remedy == OTHER
            if both and np.allclose([*one.law, *one.corrected], [*other.law, *other.corrected], rtol=ALIKE, atol=0):
                out[i] = replace(other, flag=f"{other.flag}; the same with {one.flag}")
                break
        else:
            out.append(one)
    return out


def _questions(rows: Rows) -> list[Question]:
    """The farthest question along each axis; of a table too short for any, what a fit holds out.

    Raises:
      UserError: not even that.
    """
    frame = rows.frame
    if asked := [found[-1] for kind in AXES if (found := forward.KINDS[kind](frame, 2))]:
        return asked
    what, held = folds.make("forward", rows)[0]
    return [Question("held out", what, ~held, held, np.ones(len(frame)))]


def _remedies(rows: Rows, corpus: str, law: Law) -> Iterator[_Remedy]:
    """Fewer rows first, which cost no compilation."""
    frame = rows.frame
    yield from _late(rows)
    share = f"w_{corpus}"
    if share in frame and len(levels := np.unique(frame[share])) >= LEAST_SHARES:
        values = frame[share].to_numpy(float)
        for level, sign in ((levels[0], ">"), (levels[-1], "<")):
            what = f"without the share {level:g} of {corpus}"
            yield _Remedy(what, f"--where '{share} {sign} {level:g}'", kept=values != level)
    try:
        names = choose.candidates(frame)
    except UserError:
        names = []
    for name in names:
        try:
            other = laws.for_table(name, frame)
        except UserError:
            continue
        if (other.name, dict(other.options)) != (law.name, dict(law.options)):
            yield _Remedy(OTHER, f"--law {name}", law=other)


def _late(rows: Rows) -> Iterator[_Remedy]:
    """Without the first third of each run's checkpoints, where runs have enough of them."""
    if "tokens" not in rows.frame:
        return
    tokens = rows.frame["tokens"].to_numpy(float)
    length = np.bincount(rows.run, minlength=len(rows.runs))[rows.run]
    place = pd.Series(tokens).groupby(rows.run).rank(method="min").to_numpy() - 1
    early = (length >= LEAST_CHECKPOINTS) & (place < np.ceil(LATE * length))
    if early.any():
        where = remedies.condition(rows, early)
        flag = f"--where '{where}'" if where else "leave them out of the table"
        yield _Remedy("late checkpoints only, without the first third of each run's", flag, kept=~early)
