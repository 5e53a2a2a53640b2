"""The file of a saved decision: JSON with a hash of its content, checked field by field when it is read."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cptlaw import records
from cptlaw.errors import UserError

VERSION = 1
SHARES = ("share", "best in", "beaten in", "interval shrinks to")  # columns of rows that are shares of one
LARGEST = 1e60  # no count of FLOPs, tokens or parameters comes near it
CURE = "make the decision again with cptlaw plan"
NUMBER, TEXT, NUMBERS = "a number", "text", "an object of numbers"
# kind -> the inputs that a report shows or that the question is asked again with; "?" marks those that may be null
INPUTS: dict[str, dict[str, str]] = {
    "trade-off": {
        **dict.fromkeys(("params", "tokens", "base_loss", "ceiling", "tolerance"), NUMBER),
        "general": TEXT, "domain": TEXT,
    },
    "share-for-loss": {**dict.fromkeys(("params", "tokens", "loss"), NUMBER), "domain": TEXT},
    "limited-data": {
        **dict.fromkeys(("params", "domain_tokens", "max_epochs", "repetition", "?tokens"), NUMBER), "domain": TEXT,
    },
    "budget": {
        **dict.fromkeys(("flops", "inference_tokens", "?share", "?ceiling"), NUMBER),
        "?sizes": "a list of numbers", "domain": TEXT, "?general": TEXT,
    },
    "mixture": {**dict.fromkeys(("weights", "ceilings", "low", "high"), NUMBERS), "worst": "true or false"},
    "pareto": {"params": NUMBER, "tokens": NUMBER, "general": TEXT, "domain": TEXT},
    "subset": {"tokens": NUMBER, "domain": TEXT},
}  # fmt: skip


class DecisionError(UserError):
    """A question that cannot be answered as put (the message gives the range in which it can), or a damaged file."""


def read(path: Path) -> dict[str, Any]:
    """The fields of a `Decision`, its options still as mappings.

    Raises:
      DecisionError: names the file, and the field that is missing or damaged.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DecisionError(f"{path}: cannot be read as a decision ({error.strerror}); {CURE}") from error
    data = records.parse(text, str(path), CURE, DecisionError)
    version = data.get("cptlaw_decision")
    if version != VERSION or isinstance(version, bool):
        raise DecisionError(f"{path}: not a decision of this version (version {version}, expected {VERSION})")
    seal = data.pop(records.SEAL, None)  # files of earlier versions have none
    # The fields are checked first, because they say where the damage is; the seal sees what they cannot.
    found = _Fields(path).decision({name: value for name, value in data.items() if name != "cptlaw_decision"})
    if seal is not None and seal != records.digest(data):
        raise DecisionError(f"{path}: its content does not match its hash: it is damaged or was edited; {CURE}")
    return found


class _Fields:
    """Checks the values of one file; what is wrong is refused by the name of its field. Null numbers are NaN."""

    def __init__(self, path: Path):
        self.path = path

    def decision(self, data: dict[str, Any]) -> dict[str, Any]:
        known = {
            "kind": self.text, "question": self.text, "answer": self.text, "agreement_means": self.text,
            "inputs": self.mapping, "point": self.numbers, "regret": self.regret, "level": self.level,
            "agreement": self.share, "supported": self.flag, "interval": self.interval, "samples": self.samples,
            "losses": self.losses, "options": self.options, "influence": self.rows, "rows": self.rows,
            "extrapolation": self.texts, "warnings": self.texts,
        }  # fmt: skip
        for name in ("kind", "question", "answer", "inputs", "point", "level"):
            if name not in data:
                self.refuse(name, "is missing")
        for name in data:
            if name not in known:
                self.refuse(name, "is not known")
        found: dict[str, Any] = {name: known[name](name, value) for name, value in data.items()}
        self.inputs(found["kind"], found["inputs"])
        self.agree(found)
        return found

    def inputs(self, kind: str, inputs: dict[str, Any]) -> None:
        """The inputs that a decision of this kind has."""
        checks = {
            NUMBER: self.number, TEXT: self.text, NUMBERS: self.numbers, "true or false": self.flag,
            "a list of numbers": lambda field, value: [self.number(field, one) for one in self.of(field, value, list)],
        }  # fmt: skip
        for name, what in INPUTS.get(kind, {}).items():
            field = f"inputs.{name.removeprefix('?')}"
            value = inputs.get(name.removeprefix("?"))
            if value is None and not name.startswith("?"):
                self.refuse(field, f"must be {what}")
            if value is not None:
                checks[what](field, value)
        for role in ("general", "domain"):
            if inputs.get(role) is not None:
                self.text(f"inputs.{role}", inputs[role])

    def agree(self, found: dict[str, Any]) -> None:
        """That the fields speak of the same coordinates and corpora."""
        losses, inputs = found.get("losses", {}), found["inputs"]
        if found["kind"] == "trade-off":
            for field in ("point", "interval", "samples"):
                if "share" not in found.get(field, {}):
                    self.refuse(f"{field}.share", "is missing")
            for role in ("general", "domain"):
                if inputs[role] not in losses:
                    self.refuse(f"losses.{inputs[role]}", "is missing")
        for i, option in enumerate(found.get("options", ())):
            if absent := [name for name in losses if name not in option["losses"]]:
                self.refuse(f"options[{i}].losses.{absent[0]}", "is missing")
            if found["kind"] == "trade-off" and ("share" not in option["point"] or option["holds"] is None):
                self.refuse(f"options[{i}]", "must have a share, and say how often the ceiling holds")
        for i, row in enumerate(found.get("influence", ())):
            name = next(iter(found["point"]), None)
            self.text(f"influence[{i}].run", row.get("run"))
            self.number(f"influence[{i}].{name} without it", row.get(f"{name} without it"))
        if len({len(values) for values in found.get("samples", {}).values()}) > 1:
            self.refuse("samples", "must have the same length for every coordinate")

    def refuse(self, field: str, why: str) -> NoReturn:
        raise DecisionError(f"{self.path}: damaged: field {field!r} {why}; {CURE}")

    def of(self, field: str, value: Any, kind: type) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            words = {str: TEXT, dict: "an object", list: "a list", bool: "true or false"}[kind]
            self.refuse(field, f"must be {words}, not {str(value)[:40]!r}")
        return value

    def text(self, field: str, value: Any) -> str:
        return self.of(field, value, str)

    def flag(self, field: str, value: Any) -> bool:
        return self.of(field, value, bool)

    def mapping(self, field: str, value: Any) -> dict[str, Any]:
        return self.of(field, value, dict)

    def number(self, field: str, value: Any) -> float:
        if value is None:
            return math.nan
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST:
            self.refuse(field, f"must be {NUMBER}, not {str(value)[:40]!r}")
        return float(value)

    def share(self, field: str, value: Any) -> float:
        if not 0 <= (found := self.number(field, value)) <= 1 and value is not None:
            self.refuse(field, f"must lie between 0 and 1, not {found:g}")
        return found

    def level(self, field: str, value: Any) -> float:
        if not 0 < (found := self.number(field, value)) < 1:
            self.refuse(field, f"must lie between 0 and 1, not {found:g}")
        return found

    def texts(self, field: str, value: Any) -> tuple[str, ...]:
        return tuple(self.text(f"{field}[{i}]", one) for i, one in enumerate(self.of(field, value, list)))

    def numbers(self, field: str, value: Any, *needed: str) -> dict[str, float]:
        found = {k: self.number(f"{field}.{k}", v) for k, v in self.mapping(field, value).items()}
        for name in needed:
            if name not in found:
                self.refuse(f"{field}.{name}", "is missing")
        return found

    def regret(self, field: str, value: Any) -> dict[str, float]:
        return self.numbers(field, value, *(("mean", "p90") if value else ()))

    def interval(self, field: str, value: Any) -> dict[str, tuple[float, float]]:
        found = {}
        for name, pair in self.mapping(field, value).items():
            if not isinstance(pair, list) or len(pair) != 2:
                self.refuse(f"{field}.{name}", "must be the two ends of an interval")
            found[name] = (self.number(f"{field}.{name}", pair[0]), self.number(f"{field}.{name}", pair[1]))
        return found

    def samples(self, field: str, value: Any) -> dict[str, np.ndarray]:
        return {
            name: np.array([self.number(f"{field}.{name}", one) for one in self.of(f"{field}.{name}", values, list)])
            for name, values in self.mapping(field, value).items()
        }

    def losses(self, field: str, value: Any) -> dict[str, dict[str, float]]:
        each = self.mapping(field, value).items()
        return {name: self.numbers(f"{field}.{name}", loss, "point", "low", "high") for name, loss in each}

    def options(self, field: str, value: Any) -> tuple[dict[str, Any], ...]:
        found = []
        for i, option in enumerate(self.of(field, value, list)):
            at = f"{field}[{i}]"
            if set(self.mapping(at, option)) - {"holds"} != {"name", "point", "losses"}:
                self.refuse(at, "must have name, point and losses")
            holds = option.get("holds")
            found.append({
                "name": self.text(f"{at}.name", option["name"]),
                "point": self.numbers(f"{at}.point", option["point"]),
                "losses": self.losses(f"{at}.losses", option["losses"]),
                "holds": None if holds is None else self.share(f"{at}.holds", holds),
            })  # fmt: skip
        return tuple(found)

    def rows(self, field: str, value: Any) -> tuple[Mapping[str, Any], ...]:
        for i, row in enumerate(self.of(field, value, list)):
            for name, cell in self.mapping(f"{field}[{i}]", row).items():
                at = f"{field}[{i}].{name}"
                if (
                    name in ("params", "tokens", *SHARES)
                    or name.startswith("w_")
                    or not isinstance(cell, str | bool | None)
                ):
                    self.number(at, cell)
        return tuple(value)
