"""What a fit is worth, as data and in words: does its table reject the law, what was tried against it, and does it beat
the rules that know no law. No JAX, no SciPy.

The tests are of the law alone. What is predicted comes from the law corrected by how it misses (`process`), which a
rejection does not touch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cptlaw.fields import at_least, between

LEVEL = 0.05  # of all tests of one corpus together
LEAST_P = 1e-16  # below which p-values are rounding
SAME = 1e-3  # relative change of an error up to which a remedy has changed nothing


def shown(p: float) -> str:
    """A p-value in words."""
    return f"{p:.1g}" if p >= LEAST_P else f"under {LEAST_P:g}"


@dataclass(frozen=True)
class Check:
    """One test.

    Attributes:
      what: "settings" (do the law's misses of settings exceed what repeats differ by), "curves" (the same of how
        losses run along tokens), or "along NAME" (do residuals keep their sign along a column).
      p: of the test alone.
      statistic: F; of a test along a column, the number of stretches of one sign, or the mean bend.
      df: degrees of freedom of F, two; else empty.
      noise: what repeats differ by (standard deviation), and `miss`, what the law misses by beyond it (root mean
        square); of the loss, 0 where not measured.
    """

    what: str
    p: Annotated[float, between(0, 1)]
    statistic: Annotated[float, at_least(0)]
    df: tuple[float, ...] = ()
    noise: Annotated[float, at_least(0)] = 0.0
    miss: Annotated[float, at_least(0)] = 0.0

    @property
    def repeats(self) -> bool:
        """Whether the test rests on repeated settings."""
        return not self.what.startswith("along ")


@dataclass(frozen=True)
class LackOfFit:
    """The tests of one evaluated corpus.

    Attributes:
      settings, runs: how many settings were repeated, and by how many runs.
      loss: the mean loss, nats, in which relative misses are told.
      notes: what could not be tested, and why.
    """

    tests: tuple[Check, ...]
    settings: Annotated[int, at_least(0)]
    runs: Annotated[int, at_least(0)]
    loss: Annotated[float, at_least(0)]
    notes: tuple[str, ...] = ()

    @property
    def p(self) -> float:
        """Of all tests together (Bonferroni; half to those by repeats, half to those along columns); 1 without any."""
        return min(map(self.adjusted, self.tests), default=1.0)

    @property
    def rejected(self) -> bool:
        """Whether the table rejects the law."""
        return self.p < LEVEL

    def adjusted(self, test: Check) -> float:
        """A test's p-value times the number of tests of its kind and of kinds."""
        kinds = {t.repeats for t in self.tests}
        return min(1.0, test.p * len(kinds) * sum(t.repeats == test.repeats for t in self.tests))

    def words(self) -> str:
        """What rejects the law, or that nothing does, with what could not be tested."""
        said = [self._told(t) for t in sorted(self.tests, key=self.adjusted) if self.adjusted(t) < LEVEL]
        if not said and self.tests:
            said = [f"no test rejects it (p {shown(self.p)})"]
        return "; ".join([*said, *self.notes])

    def _told(self, test: Check) -> str:
        if test.repeats:
            noise, miss = (f"{self.loss * v:.2g} nats ({v:.2%})" for v in (test.noise, test.miss))
            df = " and ".join(f"{v:.3g}" for v in test.df)
            unit, what = ("run's mean", "settings") if test.what == "settings" else ("run's curve", "curves")
            return (
                f"runs that repeat a setting differ by {noise} in the {unit}, and the law misses {what} by {miss} "
                f"beyond that (F {test.statistic:.3g} on {df} degrees of freedom, p {shown(test.p)}; {self.settings} "
                f"settings repeated by {self.runs} runs)"
            )
        axis = test.what.removeprefix("along ")
        if test.miss:
            return f"along {axis} the runs bend away from the law together, by {test.miss:.2%} (p {shown(test.p)})"
        return f"along {axis} its misses keep their sign, in {test.statistic:.0f} stretches (p {shown(test.p)})"


@dataclass(frozen=True)
class Tried:
    """A remedy that was tried on held-out forward questions. Errors are mean absolute log errors, `before` without the
    remedy on the same rows.

    Attributes:
      remedy: in words, and `flag`, how to ask for it.
      law: (before, with it) of the law alone, and `corrected`, of it corrected by how it misses; empty where it could
        not be tried.
      rows, runs: that the errors rest on.
      why: why it could not be tried.
    """

    eval: str
    remedy: str
    flag: str
    law: tuple[float, ...] = ()
    corrected: tuple[float, ...] = ()
    rows: Annotated[int, at_least(0)] = 0
    runs: Annotated[int, at_least(0)] = 0
    why: str = ""

    @property
    def changes(self) -> bool:
        """Whether it makes any difference."""
        return any(abs(now - before) > SAME * before for before, now in self._pairs)

    @property
    def helps(self) -> bool:
        """Whether the law predicts better with it, and the corrected law no worse."""
        (before, now), *rest = self._pairs or [(0.0, 0.0)]
        return now < before * (1 - SAME) and all(now <= before * (1 + SAME) for before, now in rest)

    @property
    def _pairs(self) -> list[tuple[float, ...]]:
        return [pair for pair in (self.law, self.corrected) if len(pair) == 2]

    def words(self) -> str:
        """What came of it."""
        if self.why:
            return f"{self.remedy} ({self.flag}): not tried: {self.why}"
        told = [
            f"{name} {now:.2%} instead of {before:.2%}"
            for name, (before, now) in zip(("the law errs by", "corrected by"), self._pairs)
        ]
        verdict = "" if self.helps else "; no better" if self.changes else "; changes nothing"
        return f"{self.remedy} ({self.flag}): {', '.join(told)}{verdict}"


def rejection(law: str, tested: Mapping[str, LackOfFit]) -> str:
    """The first line of every output about a law that its table rejects; "" where none does."""
    found = [f"of {corpus}, {one.words()}" for corpus, one in tested.items() if one.rejected]
    if not found:
        return ""
    return (
        f"REJECTED: the table rejects the law {law}: {'. And '.join(found)}. Read predictions, which are corrected by "
        "how it missed, and not its parameters."
    )


def remedies(tried: Sequence[Tried]) -> list[str]:
    """What helps against a rejection, best first, then what does not."""
    if not tried:
        return []
    best = [t for t in tried if t.helps]
    order = sorted(best, key=lambda t: t.law[1] / t.law[0]) + [t for t in tried if t not in best]
    measured = next((t for t in order if t.law), None)
    rests = "" if measured is None else f" on held-out rows beyond those fitted, up to {measured.rows} of "
    rests += "" if measured is None else f"{measured.runs} runs"
    head = "What helps" if best else "Nothing that was tried helps"
    return [f"{head}, tried{rests}:", *(f"  {t.words()}" for t in order)]


def standing(held: Mapping[str, Any]) -> dict[str, Any]:
    """How a fit stands against the rules without a law, on its held-out rows.

    Returns:
      law, process (None where there is none), best (the rule's name), rival (its error), wins (whether what is
      predicted errs less); {} where no row was held out. Errors are mean absolute log errors.
    """
    if not held.get("n"):
        return {}
    errors = {k: v["mean_log"] for k, v in held.items() if isinstance(v, Mapping) and "mean_log" in v}
    own, corrected = errors.pop("law", None), errors.pop("process", None)
    if own is None or not errors:
        return {}
    best = min(errors, key=lambda name: errors[name])
    ours = own if corrected is None else corrected
    return {"law": own, "process": corrected, "best": best, "rival": errors[best], "wins": ours < errors[best]}


def headline(held: Mapping[str, Any]) -> str:
    """What a law is worth where it was not fitted, beside the best rule that knows no law."""
    stands = standing(held)
    if not stands:
        why = held.get("what", "none")
        return f"No row could be held out ({why}): nothing says what this law is worth out of range."
    rows = f"{held['n']} rows" + (f" of {held['runs']} run{'s' * (held['runs'] > 1)}" if "runs" in held else "")
    words = f"corrected by how it missed {stands['process']:.2%}, " if stands["process"] is not None else ""
    verdict = "beats" if stands["wins"] else "loses to"
    return (
        f"Held out ({held['what']}, {rows}): the law errs by {stands['law']:.2%}, {words}the best rule without a law, "
        f"{stands['best']}, by {stands['rival']:.2%}: the prediction {verdict} it."
    )


def warnings(fits: Mapping[str, Any], *, but_standing: bool = False) -> list[str]:
    """The warnings of fits, corpus -> fit, each once under the names of the corpora it is of.

    Args:
      but_standing: without those that `standing` says: that the law loses to a rule without a law.
    """
    of: dict[str, list[str]] = {}
    for name, fit in fits.items():
        for warning in fit.warnings:
            if not (but_standing and "the law does not beat" in warning):
                of.setdefault(warning, []).append(name)
    return [f"{', '.join(names)}: {warning}" for warning, names in of.items()]
