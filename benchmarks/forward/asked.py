"""Questions with what an ordinary fit answers to them, kept on disk: the slow part, the same for every prior tried."""

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from benchmarks.forward.series import ROOT, Series
from cptlaw import atomic, cache, fitting
from cptlaw.errors import UserError
from cptlaw.fitting import forward
from cptlaw.laws import Law

MOST_ASKED = 60  # rows predicted of one question, drawn by its own seed
BOOTSTRAP, STARTS = 100, 16
STORE = ROOT / ".cache" / "forward"


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, its rows, and the law fitted to them: parameters and (rows,) intervals."""

    series: str
    family: str
    question: forward.Question
    train: pd.DataFrame
    test: pd.DataFrame
    law: Law
    theta: dict[str, float]
    point: np.ndarray
    plain: tuple[np.ndarray, np.ndarray]

    @property
    def step(self) -> np.ndarray:
        """How many times beyond the origin each asked row lies."""
        return self.question.step[self.test.index]

    def columns(self, rows: pd.DataFrame) -> dict[str, np.ndarray]:
        """The law's columns of `rows`."""
        own = rows.assign(ratio=rows[f"w_{rows['eval'].iloc[0]}"]) if "ratio" in self.law.columns else rows
        return {name: own[name].to_numpy(float) for name in self.law.columns}


def ask(series: Iterable[Series], most: int = 3, progress: bool = True) -> Iterator[Asked]:
    """Every question of every series that its law can be fitted for; interrupted, it goes on where it was."""
    from tqdm import tqdm

    cache.keep_compiled()
    with tqdm(desc="questions", unit="", disable=None if progress else True) as bar:
        for one in series:
            table = one.rows()
            for question in forward.questions(table, most=most):
                bar.set_postfix_str(one.name)
                answer = _answer(one, table, question)
                bar.update()
                if answer is not None:
                    yield answer


def _answer(series: Series, table: pd.DataFrame, question: forward.Question) -> Asked | None:
    asked = np.flatnonzero(question.test)
    if len(asked) > MOST_ASKED:
        seed = zlib.crc32(f"{series.name} {question.what}".encode())
        asked = np.sort(np.random.default_rng(seed).choice(asked, MOST_ASKED, replace=False))
    train, test = table[question.train], table.iloc[asked]
    key = f"{series.law} {BOOTSTRAP} {STARTS} {train.to_csv()} {test.to_csv()}"
    kept = STORE / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(kept, json.dumps(_fitted(series, train, test)))
    found = json.loads(kept.read_text())
    if "refused" in found:
        return None
    from cptlaw import laws

    values = {k: np.array(found[k], float) for k in ("point", "low", "high")}
    return Asked(
        series.name, series.family, question, train, test, laws.for_table(series.law, table), found["theta"],
        values["point"], (values["low"], values["high"]),
    )  # fmt: skip


def _fitted(series: Series, train: pd.DataFrame, test: pd.DataFrame) -> dict:
    try:
        fit = fitting.fit(train, series.law, bootstrap=BOOTSTRAP, starts=STARTS)
        own = test.assign(ratio=test[f"w_{test['eval'].iloc[0]}"]) if "ratio" in fit.law.columns else test
        columns = {name: own[name].to_numpy(float) for name in fit.law.columns}
        shares = {k[2:]: columns.pop(k) for k in list(columns) if k.startswith("w_")}
        plain = fit.predict(**columns, shares=shares, target="law")
    except UserError as error:
        return {"refused": str(error)}
    return {"theta": fit.params, "point": plain.point.tolist(), "low": plain.low.tolist(), "high": plain.high.tolist()}
