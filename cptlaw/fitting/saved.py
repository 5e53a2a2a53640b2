"""The file of a saved fit: JSON that is validated when it is read, and that names code but never runs it.

The file ends with a digest of its own content, so that damage is noticed even where every value looks sound.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import atomic, laws, records
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError, build, plain
from cptlaw.fitting.process import Process
from cptlaw.fitting.verdicts import LackOfFit, Tried
from cptlaw.laws import Law
from cptlaw.laws.factor import COLUMN, factored
from cptlaw.paths import local

FORMAT, VERSION = "cptlaw.fit", 2
WITHOUT_DIGEST = 1  # the version before files carried a digest
CONTENT = (
    "eval", "params", "samples", "codes", "influence", "scores", "residuals", "ranges", "unmoved", "rests", "n_rows",
    "digest", "settings", "warnings", "versions", "command", "process", "lack_of_fit", "remedies",
)  # fmt: skip
LATER = ("lack_of_fit", "remedies")  # which a file of version 2 need not have
SINCE_VERSION_2 = ("unmoved", "rests", "process", *LATER)
LARGEST = 1e60  # no parameter, loss or count comes near it; its cube is still a float
ROWS = {"run": str, "eval": str, "loss": float, "observed": float, "predicted": float, "held_out": bool}
SETTINGS = {"shared": list, "fixed": dict, "resample": str, "seed": int}


class FitError(UserError):
    """A fit that cannot be made or read, or a question that it cannot answer."""


def write(path: str | os.PathLike[str], law: Law, content: Mapping[str, Any]) -> None:
    """Writes a fit atomically. `content` has the names `CONTENT`; `residuals` is a table."""
    rows = {name: plain(column.to_numpy()) for name, column in content["residuals"].items()}
    data = {
        "format": FORMAT,
        "version": VERSION,
        "law": {"name": law.name, "options": plain(law.options), "sha256": law.sha256},
        **{name: plain(content[name]) for name in CONTENT if name not in ("residuals", "process", *LATER)},
        "process": {corpus: plain(found.to_json()) for corpus, found in content["process"].items()},
        "lack_of_fit": {corpus: plain(dataclasses.asdict(one)) for corpus, one in content["lack_of_fit"].items()},
        "remedies": [plain(dataclasses.asdict(one)) for one in content["remedies"]],
        "residuals": rows,
    }
    atomic.write_text(path, json.dumps({**data, "sha256": records.digest(data)}, allow_nan=False) + "\n")


def read(path: str | os.PathLike[str], law: str | Law | None = None) -> dict[str, Any]:
    """The arguments of `Fit` from a file that `write` wrote.

    Args:
      law: the user's law that the fit is by, as `FILE.py:NAME` or as a `Law`. Without it such a fit is refused, because
        its file names code, and a file that is read must not choose what is run.

    Raises:
      FitError: names the file and the field that is missing, damaged or of another version.
    """
    data = _parse(local(path))
    at = _Checker(str(path))
    version = data["version"]
    names = [n for n in CONTENT if n in data or n not in LATER] if version == VERSION else [
        n for n in CONTENT if n not in SINCE_VERSION_2]  # fmt: skip
    at.keys("", data, {"format", "version", "law", *names} | ({"sha256"} if version == VERSION else set()))
    about = at.mapping("law", data["law"])
    at.keys("law.", about, {"name", "options", "sha256"})
    chosen = _law(at, about, law)
    evals = data["eval"]
    if not isinstance(evals, str):
        evals = tuple(at.texts("eval", evals))
        if len(set(evals)) != len(evals) or len(evals) < 2:
            at.refuse("eval", "must name one corpus, or two or more different ones")
    settings = at.mapping("settings", data["settings"])
    for name, kind in SETTINGS.items():
        if name in settings or data["codes"] or not isinstance(evals, str):
            at.of(f"settings.{name}", settings.get(name), kind)
    if settings.get("seed", 0) < 0:
        at.refuse("settings.seed", "must not be negative")
    at.numbers("settings.rebased_to", settings.get("rebased_to", {}))
    at.numbers("settings.sizes", settings.get("sizes", {}))
    _check_reading(at, settings.get("reading", {}))
    if "factor" in settings:
        factor = at.mapping("settings.factor", settings["factor"])
        at.keys("settings.factor.", factor, {"column", "levels"})
        levels = tuple(at.texts("settings.factor.levels", factor["levels"]))
        if len(set(levels)) != len(levels) or len(levels) < 2:
            at.refuse("settings.factor.levels", "must be two or more different ones")
        chosen = factored(chosen, at.text("settings.factor.column", factor["column"]), levels)
    if not isinstance(evals, str):
        try:
            chosen = laws.joint(chosen, evals, at.texts("settings.shared", settings["shared"]))
        except UserError as error:
            at.refuse("settings.shared", str(error))
    found = _content(at, data, chosen)
    found |= _verdicts(at, data)
    found["process"] = _processes(at, data.get("process", {}), chosen.base or chosen, evals)
    # The fields are checked first, because they say where the damage is; the digest sees what they cannot.
    if version == VERSION and data["sha256"] != records.digest({k: v for k, v in data.items() if k != "sha256"}):
        raise FitError(f"{path}: its content does not match its sha256: the file is damaged or was edited; fit again")
    return {"law": chosen, "eval": evals, "settings": settings, **found}


def _check_reading(at: "_Checker", reading: Any) -> None:
    """Refuses what `runs.read` would not understand of how the fitted table was read."""
    kinds = {
        "columns": dict,
        "losses": dict,
        "constants": dict,
        "tokens_per_step": float,
        "trust_units": bool,
        "per_byte": bool,
    }
    for name, value in at.mapping("settings.reading", reading).items():
        field = f"settings.reading.{name}"
        if kinds.get(name) is dict:
            for key, one in at.mapping(field, value).items():
                if name != "constants" or not isinstance(one, (int, float)):
                    at.text(f"{field}.{key}", one)
        elif name in ("tokens_per_step", "trust_units", "per_byte"):
            at.of(field, value, kinds[name])
        elif name in ("table", "where", "eval", "join", "encoding"):
            at.text(field, value)
        else:
            at.refuse(field, "is not known")


def _parse(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FitError(f"{path}: no such file; `cptlaw fit TABLE --law NAME --out {path}` makes one")
    try:
        data = records.loads_finite(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise FitError(f"{path}: truncated or not JSON ({error}); fit again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FitError(f"{path}: not a saved fit; `cptlaw fit TABLE --out {path}` makes one")
    version = data.get("version")
    if version not in (VERSION, WITHOUT_DIGEST) or isinstance(version, bool | float):
        raise FitError(f"{path}: saved by version {version} of the format, this is {VERSION}; fit again")
    return data


def _law(at: "_Checker", about: dict[str, Any], given: str | Law | None) -> Law:
    """The law of the fit. A user's law is the one that the caller gives, and its source is that of the fit."""
    name, sha256 = at.text("law.name", about["name"]), about["sha256"]
    options = at.mapping("law.options", about["options"])
    if name in laws.names():
        try:
            return laws.get(name, **options)
        except (UserError, TypeError, ValueError, AttributeError, KeyError) as error:
            at.refuse("law.options", f"no options of {name}: {error}")
    if given is None:
        own = Path(name.rpartition(":")[0]).name or "FILE.py"
        raise FitError(
            f"{at.path}: fitted by a user's law, {name}. A saved fit does not choose what code runs: name the law "
            f"yourself, --law {own}:{name.rpartition(':')[2]} (in Python: Fit.load(path, law=...))"
        )
    if isinstance(given, Law):
        if (given.sha256 or None) != (sha256 or None):
            raise FitError(
                f"{at.path}: the law given, {given.name}, is of another source than {name}, which was fitted"
            )
        return given
    if not isinstance(sha256, str) or len(sha256) != 64:
        raise FitError(f"{at.path}: the fit does not say which source its law {name} had, so no file can be it")
    if given.rpartition(":")[2] != name.rpartition(":")[2]:
        raise FitError(f"{at.path}: fitted by the law {name.rpartition(':')[2]!r}, not by {given}")
    return laws.load(given, sha256)


def _content(at: "_Checker", data: dict[str, Any], law: Law) -> dict[str, Any]:
    """Every other field, checked and in the types of `Fit`. A fit made by hand has no `codes`, and may have no rows."""
    solved = bool(data["codes"])
    params = at.numbers("params", data["params"])
    at.keys("params.", params, {*law.names, *law.fixed} if solved else set(law.names), more=not solved)
    samples = {k: at.column(f"samples.{k}", v) for k, v in at.mapping("samples", data["samples"]).items()}
    at.keys("samples.", samples, set(law.names), more=not solved)
    if len({len(values) for values in samples.values()}) > 1:
        at.refuse("samples", "must have the same length for every parameter")
    for p in law.params:
        values = np.append(samples[p.name], params[p.name])
        values = values[np.isfinite(values)]
        if values.min() < p.low - 1e-9 or values.max() > p.high + 1e-9:
            at.refuse(
                f"params.{p.name} or samples.{p.name}", f"is outside {p.low:g} to {p.high:g}, where the law has it"
            )
    influence = {}
    for run, moved in at.mapping("influence", data["influence"]).items():
        influence[run] = at.numbers(f"influence.{run}", moved, finite=False)
        if solved and (unknown := set(influence[run]) - set(law.names)):
            at.refuse(f"influence.{run}", f"names {', '.join(sorted(unknown))}, which the law has not")
    ranges = {}
    for name, pair in at.mapping("ranges", data["ranges"]).items():
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_finite, pair)) and pair[0] <= pair[1]):
            at.refuse(f"ranges.{name}", "must be the smallest and the largest value")
        if (name in ("params", "tokens") and pair[0] <= 0) or (_is_share(name) and not 0 <= pair[0] <= pair[1] <= 1):
            at.refuse(f"ranges.{name}", f"is {pair[0]:g} to {pair[1]:g}, which no such column is")
        ranges[name] = (float(pair[0]), float(pair[1]))
    at.keys("ranges.", ranges, set(law.columns) if solved else set(), more=not solved)
    residuals = at.rows(data["residuals"], solved)
    at.of("n_rows", data["n_rows"], int)
    if solved and data["n_rows"] != (fitted := int((~residuals["held_out"]).sum())):
        at.refuse("n_rows", f"is {data['n_rows']!r}, and {fitted} rows are fitted")
    rests = {k: tuple(at.texts(f"rests.{k}", v)) for k, v in at.mapping("rests", data.get("rests", {})).items()}
    if not {*rests} <= {*law.columns} or not {n for names in rests.values() for n in names} <= {*law.names}:
        at.refuse("rests", "must map columns of the law to parameters of it")
    unmoved = at.texts("unmoved", data.get("unmoved", list(unmoving(ranges))))
    if tuple(unmoved) != unmoving(ranges):
        at.refuse("unmoved", "must be the columns whose range is a point")
    return {
        "params": params,
        "samples": samples,
        "codes": at.codes(data["codes"]),
        "influence": influence,
        "scores": at.scores(data["scores"], solved),
        "residuals": residuals,
        "ranges": ranges,
        "rests": rests,
        "n_rows": data["n_rows"],
        "digest": at.text("digest", data["digest"]),
        "warnings": at.texts("warnings", data["warnings"]),
        "versions": {k: at.text(f"versions.{k}", v) for k, v in at.mapping("versions", data["versions"]).items()},
        "command": at.text("command", data["command"]),
    }


def _processes(at: "_Checker", value: Any, law: Law, evals: str | tuple[str, ...]) -> dict[str, Process]:
    """The law conditioned on each corpus's rows."""
    found = {}
    for corpus, data in at.mapping("process", value).items():
        if corpus not in ((evals,) if isinstance(evals, str) else evals):
            at.refuse(f"process.{corpus}", "is of a corpus that was not fitted")
        try:
            found[corpus] = Process.from_json(at.mapping(f"process.{corpus}", data), law)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            at.refuse(f"process.{corpus}", f"is no process of this law ({type(error).__name__}: {error})")
    return found


def _verdicts(at: "_Checker", data: dict[str, Any]) -> dict[str, Any]:
    """The tests of lack of fit and the remedies tried; a file from before there were any has none."""
    try:
        tested = {
            corpus: build(LackOfFit, one, f"lack_of_fit.{corpus}")
            for corpus, one in at.mapping("lack_of_fit", data.get("lack_of_fit", {})).items()
        }
        tried = [
            build(Tried, one, f"remedies[{i}]")
            for i, one in enumerate(at.of("remedies", data.get("remedies", []), list))
        ]
    except ConfigError as error:
        at.refuse(error.field, error.said)
    return {"lack_of_fit": tested, "remedies": tuple(tried)}


def unmoving(ranges: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """Columns that never varied: a share within 0.1 points, any other column within 1%."""
    return tuple(
        name
        for name, (low, high) in ranges.items()
        if name not in ("corpus", COLUMN) and high - low <= slack(name, high)
    )


def slack(name: str, value: float) -> float:
    """How far from `value` of a column still counts as the same value."""
    return 1e-3 if _is_share(name) else 1e-2 * abs(value)


def _is_share(name: str) -> bool:
    return name == "ratio" or name.startswith("w_")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and abs(value) <= LARGEST


def _words(kind: type) -> str:
    return {str: "text", list: "a list", dict: "an object", int: "a whole number", float: "a finite number",
            bool: "true or false"}[kind]  # fmt: skip


class _Checker:
    """Checks values of one file; what is wrong is refused by the name of its field."""

    def __init__(self, path: str):
        self.path = path

    def refuse(self, field: str, why: str) -> Any:
        raise FitError(f"{self.path}: {field}: {why}; the file is damaged, fit again")

    def keys(self, prefix: str, values: Mapping[str, Any], known: set[str], more: bool = False) -> None:
        """Refuses a missing name, and one that is not `known` unless `more` are allowed."""
        if absent := sorted(known - set(values)):
            raise FitError(f"{self.path}: incomplete: {prefix}{absent[0]} is missing; fit again")
        if not more and (unknown := sorted(set(values) - known)):
            self.refuse(f"{prefix}{unknown[0]}", "is not known")

    def of(self, field: str, value: Any, kind: type) -> Any:
        good = isinstance(value, kind) if kind is not float else _is_finite(value)
        if not good or (isinstance(value, bool) and kind is not bool):
            self.refuse(field, f"must be {_words(kind)}, not {_shown(value)}")
        return value

    def text(self, field: str, value: Any) -> str:
        return self.of(field, value, str)

    def mapping(self, field: str, value: Any) -> dict[str, Any]:
        return self.of(field, value, dict)

    def texts(self, field: str, value: Any) -> list[str]:
        return [self.text(f"{field}[{i}]", part) for i, part in enumerate(self.of(field, value, list))]

    def numbers(self, field: str, value: Any, finite: bool = True) -> dict[str, float]:
        """Name -> number; null is NaN where numbers need not be finite."""
        out = {}
        for name, number in self.mapping(field, value).items():
            if number is None and not finite:
                out[name] = math.nan
            else:
                out[name] = float(self.of(f"{field}.{name}", number, float))
        return out

    def column(self, field: str, value: Any) -> np.ndarray:
        """Numbers (n,); null is NaN."""
        for i, number in enumerate(self.of(field, value, list)):
            if number is not None and not _is_finite(number):
                self.refuse(f"{field}[{i}]", f"must be a number, not {_shown(number)}")
        return np.array(value, float)

    def rows(self, value: Any, whole: bool) -> pd.DataFrame:
        """The table of residuals; `whole` asks for all the columns of `ROWS`."""
        columns = self.mapping("residuals", value)
        if absent := [name for name in (ROWS if whole else ("run", "held_out")) if name not in columns]:
            raise FitError(f"{self.path}: incomplete: residuals.{absent[0]} is missing; fit again")
        for name, values in columns.items():
            field = f"residuals.{name}"
            for i, cell in enumerate(self.of(field, values, list)):
                if name in ROWS and not (name == "loss" and cell is None) and (whole or name != "run"):
                    self.of(f"{field}[{i}]", cell, ROWS[name])
                elif isinstance(cell, list | dict):
                    self.refuse(f"{field}[{i}]", f"must be a number or text, not {_shown(cell)}")
            if len(values) != len(columns["run"]):
                self.refuse(field, f"has {len(values)} rows, and residuals.run {len(columns['run'])}")
        if not len(columns["run"]) or all(columns["held_out"]):
            self.refuse("residuals", "must hold at least one fitted row")
        return pd.DataFrame(columns)

    def codes(self, value: Any) -> dict[str, dict[str, int]]:
        out: dict[str, dict[str, int]] = {}
        for what, counts in self.mapping("codes", value).items():
            for code, count in self.mapping(f"codes.{what}", counts).items():
                if self.of(f"codes.{what}.{code}", count, int) < 0:
                    self.refuse(f"codes.{what}.{code}", "must not be negative")
            out[what] = counts
        return out

    def scores(self, value: Any, whole: bool) -> dict[str, Any]:
        """{"fit": numbers, "held_out": {"what", "n", candidates' numbers, "beaten_by", "alike"}}; null is NaN."""
        scores = self.mapping("scores", value)
        if not scores and not whole:
            return {}
        self.keys("scores.", scores, {"fit", "held_out"})
        fit = self.numbers("scores.fit", scores["fit"], finite=False)
        held = dict(self.mapping("scores.held_out", scores["held_out"]))
        for name, kind in (("what", str), ("n", int)):
            self.of(f"scores.held_out.{name}", held.get(name), kind)
        for name, part in held.items():
            if isinstance(part, dict):
                held[name] = self.numbers(f"scores.held_out.{name}", part, finite=False)
            elif isinstance(part, list):
                self.texts(f"scores.held_out.{name}", part)
            elif not isinstance(part, str | int):
                self.refuse(f"scores.held_out.{name}", f"must be numbers, names or text, not {_shown(part)}")
        needed: dict[str, Callable[..., Any]] = {"law": self.mapping, "beaten_by": self.texts}
        for name, check in needed.items() if held["n"] else ():
            check(f"scores.held_out.{name}", held.get(name))
        for where, scored in (("fit", fit), ("held_out.law", held.get("law", {"rms_log": 0, "mean_log": 0}))):
            for name in ("rms_log", "mean_log") if whole else ("rms_log",) if held["n"] else ():
                self.of(f"scores.{where}.{name}", scored.get(name), float)
        return {"fit": fit, "held_out": held}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
