"""Conditions on the rows of a table, `params < 1e9 and eval in ['code', 'web']`: a small grammar of its own.

A condition comes from a command line, a notebook or a saved study. It is read here and nowhere else: there are columns,
constants, comparisons (also chained), `and`, `or`, `not`, `&`, `|`, `~`, `in`, `not in` and arithmetic, and there is
nothing that could call, look up or run anything. On these forms the result is that of pandas' `query`.

    or:       and (("or" | "|") and)*
    and:      not (("and" | "&") not)*
    not:      "not" not | compare
    compare:  sum (("==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in") sum)*
    sum:      product (("+" | "-") product)*
    product:  unary (("*" | "/" | "//" | "%") unary)*
    unary:    ("+" | "-" | "~") unary | atom ["**" unary]
    atom:     NUMBER | 'TEXT' | True | False | COLUMN | `ANY COLUMN` | "(" or ")" | "[" constants "]"
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from cptlaw.runs.contract import Locator, TableError, near

MAX_LENGTH = 10_000  # characters; a list of a few hundred run ids fits
MAX_DEPTH = 40  # parentheses and signs inside each other

_TOKEN = re.compile(
    r"""(?P<number>(?:\d[\d_]*(?:\.[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?(?!\w))
      | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<quoted>`(?:[^`]|``)+`)
      | (?P<name>[^\W\d]\w*)
      | (?P<sign>\*\*|//|==|!=|<=|>=|[-+*/%<>&|~()\[\],])""",
    re.VERBOSE | re.DOTALL,
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow,
}  # fmt: skip
_WORDS = ("and", "or", "not", "in", "True", "False")
_NOT_HERE = {
    "@": "variables (@) are not looked up; write the value",
    ".": "nothing is looked up with a dot",
    "=": "equality is written ==",
    "{": "a list is written ['a', 'b']",
    "#": "comments are not part of a condition",
    "`": "a backtick is not closed",
    "'": "a quote is not closed",
    '"': "a quote is not closed",
    "is": "write == or !=",
    "None": "an empty cell is not equal to itself: write loss != loss for empty, loss == loss for filled",
    "nan": "an empty cell is not equal to itself: write loss != loss for empty, loss == loss for filled",
    "lambda": "functions cannot be written here",
}


def select(df: pd.DataFrame, query: str, source: str = "rows", at: Locator | None = None) -> pd.DataFrame:
    """Rows that satisfy a condition.

    Args:
      query: see the module's docstring.
      source: what the message of an error begins with.
      at: turns rows into places of the file, for messages.

    Raises:
      TableError: it is no such condition, an unknown column, or text compared with numbers; lists the columns.
    """
    mask = _Reader(df, query, source, at).condition()
    return df[mask]


@dataclass(frozen=True)
class _Value:
    """What a part of a condition stands for: a constant, or one value a row.

    `kind` is number, text, time, condition (true or false), blank (a column with no values) or list.
    """

    kind: str
    data: Any
    what: str
    missing: Any = False

    @property
    def rows(self) -> bool:
        return isinstance(self.data, np.ndarray)


class _Reader:
    """Reads a condition from left to right and evaluates it as it goes."""

    def __init__(self, df: pd.DataFrame, query: str, source: str, at: Locator | None):
        self.df, self.query, self.source, self.at = df, query, source, at
        self.depth = self.position = 0
        if len(query) > MAX_LENGTH:
            self.query = query[:40] + "..."
            self.refuse(f"{len(query)} characters are more than the {MAX_LENGTH} that a condition may have")
        self.tokens = self._tokens()

    def refuse(self, why: str) -> NoReturn:
        names = [str(name) for name in self.df.columns]
        odd = next((n for n in names if not n.isidentifier() and n in self.query and f"`{n}`" not in self.query), None)
        if odd is not None:
            why += f"; a header like this one is written between backticks: `{odd}`"
        more = f" and {len(names) - 60} more" if len(names) > 60 else ""
        raise TableError(f"{self.source} {self.query!r}: {why}; columns are {', '.join(names[:60])}{more}")

    def _tokens(self) -> list[tuple[str, str]]:
        found, place = [], 0
        while place < len(self.query):
            if self.query[place].isspace():
                place += 1
                continue
            match = _TOKEN.match(self.query, place)
            if match is None:
                sign = self.query[place]
                why = _NOT_HERE.get(sign, "it is no part of a condition")
                self.refuse(f"unexpected {sign!r} after {self.query[:place].strip()!r}: {why}")
            found.append((str(match.lastgroup), match.group()))
            place = match.end()
        return found

    # The grammar, from the loosest binding to the tightest.

    def condition(self) -> np.ndarray:
        if not self.tokens:
            self.refuse("the condition is empty")
        with np.errstate(all="ignore"):
            value = self._or()
        if self.position < len(self.tokens):
            self._unexpected()
        if value.kind != "condition":
            self.refuse(f"{value.what} is a {value.kind}, not a condition; compare it with something")
        if not value.rows:
            self.refuse("it names no column, so it is the same for every row")
        return value.data

    def _peek(self) -> str:
        kind, text = self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")
        return text if kind == "sign" or (kind == "name" and text in _WORDS) else ""

    def _take(self, *wanted: str) -> str:
        text = self._peek()
        if text and text in wanted:
            self.position += 1
            return text
        return ""

    def _unexpected(self) -> NoReturn:
        before = " ".join(text for _, text in self.tokens[: self.position])
        if self.position >= len(self.tokens):
            self.refuse(f"something is missing after {before!r}")
        kind, text = self.tokens[self.position]
        why = _NOT_HERE.get(text, "")
        if not why and self.position and self.tokens[self.position - 1][0] in ("name", "quoted"):
            why = {"(": "a condition calls no functions", "[": "a column has no parts to look up"}.get(text, "")
        if not why and kind == "text":
            why = "text stands alone between its quotes"
        self.refuse(f"unexpected {text!r} after {before!r}" + (f": {why}" if why else ""))

    def _deeper(self, read: Callable[[], _Value]) -> _Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} parentheses and signs inside each other")
        value = read()
        self.depth -= 1
        return value

    def _or(self) -> _Value:
        value = self._and()
        while sign := self._take("or", "|"):
            value = self._logical(sign, np.logical_or, value, self._and())
        return value

    def _and(self) -> _Value:
        value = self._not()
        while sign := self._take("and", "&"):
            value = self._logical(sign, np.logical_and, value, self._not())
        return value

    def _not(self) -> _Value:
        return self._negated("not", self._deeper(self._not)) if self._take("not") else self._compare()

    def _compare(self) -> _Value:
        left = self._sum()
        result: _Value | None = None
        while sign := self._comparison():
            right = self._sum()
            found = self._compared(left, sign, right)
            result = found if result is None else self._logical("and", np.logical_and, result, found)
            left = right
        return left if result is None else result

    def _comparison(self) -> str:
        if self._peek() == "not" and self.tokens[self.position + 1 : self.position + 2] == [("name", "in")]:
            self.position += 2
            return "not in"
        return self._take("in", *_COMPARE)

    def _sum(self) -> _Value:
        value = self._product()
        while sign := self._take("+", "-"):
            value = self._arithmetic(value, sign, self._product())
        return value

    def _product(self) -> _Value:
        value = self._unary()
        while sign := self._take("*", "/", "//", "%"):
            value = self._arithmetic(value, sign, self._unary())
        return value

    def _unary(self) -> _Value:
        sign = self._take("+", "-", "~")
        if sign == "~":
            return self._negated(sign, self._deeper(self._unary))
        if sign:
            return self._arithmetic(_Value("number", 0, "0"), sign, self._deeper(self._unary))
        value = self._atom()
        if self._take("**"):
            value = self._arithmetic(value, "**", self._deeper(self._unary))
        return value

    def _atom(self) -> _Value:
        kind, text = self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")
        reserved = kind == "name" and text in ("and", "or", "not", "in", "is", "None", "lambda")
        if kind == "end" or reserved or (kind == "sign" and text not in ("(", "[")):
            self._unexpected()
        self.position += 1
        if kind == "number":
            plain = text.replace("_", "")
            return _Value("number", int(plain) if plain.isdigit() and len(plain) < 19 else float(plain), text)
        if kind == "text":
            return _Value("text", re.sub(r"\\([\\'\"])", r"\1", text[1:-1]), text)
        if text in ("True", "False"):
            return _Value("condition", text == "True", text)
        if kind == "name":
            return self._column(text)
        if kind == "quoted":
            return self._column(text[1:-1].replace("``", "`"))
        return self._deeper(self._list if text == "[" else self._group)

    def _group(self) -> _Value:
        value = self._or()
        if self._peek() == ",":
            return self._list(value, ")")
        if not self._take(")"):
            self._unexpected()
        return value

    def _list(self, first: _Value | None = None, end: str = "]") -> _Value:
        items = [] if first is None else [first]
        if items:
            self._take(",")
        while not self._take(end):
            items.append(self._sum())
            if not self._take(",") and self._peek() != end:
                self._unexpected()
        if any(item.rows for item in items) or len({item.kind for item in items}) > 1:
            self.refuse("a list holds numbers alone, or text alone")
        return _Value("list", [item.data for item in items], f"the {items[0].kind if items else 'empty'} list")

    # What the signs mean.

    def _column(self, name: str) -> _Value:
        if name not in self.df:
            if why := _NOT_HERE.get(name):
                self.refuse(f"unexpected {name!r}: {why}")
            close = near(name, self.df.columns)
            self.refuse(f"no column {name!r}" + (f"; did you mean {close!r}?" if close else ""))
        values = self.df[name]
        if isinstance(values, pd.DataFrame):
            self.refuse(f"{name!r} names {values.shape[1]} columns; rename one")
        missing = values.isna().to_numpy()
        if pd.api.types.is_bool_dtype(values.dtype) and not missing.any():
            return _Value("condition", values.to_numpy(bool), name)
        if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
            whole = pd.api.types.is_integer_dtype(values.dtype) and not missing.any()
            return _Value("number", values.to_numpy() if whole else values.to_numpy(float, na_value=np.nan), name)
        if pd.api.types.is_datetime64_any_dtype(values.dtype):
            utc = values.dt.tz_convert(None) if getattr(values.dt, "tz", None) is not None else values
            return _Value("time", utc.to_numpy("datetime64[ns]"), name, missing)
        return self._objects(name, values, missing)

    def _objects(self, name: str, values: pd.Series, missing: np.ndarray) -> _Value:
        data = values.to_numpy(object)
        kinds = {"text" if issubclass(t, str) else "condition" if issubclass(t, (bool, np.bool_)) else
                 "number" if issubclass(t, (int, float, np.number)) else t.__name__
                 for t in set(map(type, data[~missing]))}  # fmt: skip
        if not kinds:
            return _Value("blank", data, name, missing)
        if kinds == {"number"}:
            return _Value("number", pd.to_numeric(values).to_numpy(float), name)
        if kinds == {"condition"}:
            return _Value("condition", np.where(missing, False, data).astype(bool), name)
        if kinds == {"text"}:
            return _Value("text", data, name, missing)
        filled = np.flatnonzero(~missing)
        odd = next((i for i in filled if type(data[i]) is not type(data[filled[0]])), filled[0])
        place = self.at.place(values.index[odd]) if self.at else f"row {values.index[odd]}"
        self.refuse(
            f"column {name!r} holds {' and '.join(sorted(kinds))} ({place}: {data[odd]!r}), so it cannot be compared"
        )

    def _logical(self, sign: str, join: Callable[[Any, Any], Any], left: _Value, right: _Value) -> _Value:
        for value in (left, right):
            if value.kind != "condition":
                self.refuse(f"{sign!r} joins conditions, and {value.what} is a {value.kind}")
        return _Value("condition", join(left.data, right.data), f"{left.what} {sign} {right.what}")

    def _negated(self, sign: str, value: _Value) -> _Value:
        if value.kind != "condition":
            self.refuse(
                f"{sign!r} negates a condition, and {value.what} is a {value.kind}; use parentheses: not (a > 1)"
            )
        return _Value("condition", np.logical_not(value.data), f"{sign} {value.what}")

    def _arithmetic(self, left: _Value, sign: str, right: _Value) -> _Value:
        numbers = []
        for value in (left, right):
            if value.kind not in ("number", "blank"):
                self.refuse(f"{sign!r} is for numbers, and {value.what} is a {value.kind}")
            # Floats are bounded: 9**9**9 is infinite at once, where Python's integers would fill the memory.
            blank = value.kind == "blank"
            numbers.append(np.full(len(value.data), np.nan) if blank else np.asarray(value.data, float)[()])
        return _Value("number", _ARITHMETIC[sign](*numbers), f"{left.what} {sign} {right.what}")

    def _compared(self, left: _Value, sign: str, right: _Value) -> _Value:
        what = f"{left.what} {sign} {right.what}"
        if left.kind == "list":
            self.refuse("a list stands on the right of in, not in, == or !=")
        if right.kind == "list":
            sign = {"==": "in", "!=": "not in"}.get(sign, sign)
        elif sign in ("in", "not in"):
            self.refuse(f"{sign!r} needs a list, ['a', 'b'], and {right.what} is a {right.kind}")
        if sign in ("in", "not in"):
            if right.kind != "list":
                self.refuse(f"{sign!r} needs a list, ['a', 'b']")
            found = np.zeros(len(self.df), bool) if left.rows else np.False_
            for item in right.data:
                one = _Value("text" if isinstance(item, str) else "condition" if isinstance(item, bool) else "number",
                             item, repr(item))  # fmt: skip
                found = found | self._pair(left, "==", one)
            return _Value("condition", found if sign == "in" else ~found, what)
        if right.kind == "list":
            self.refuse(f"{sign!r} compares with one value, not with a list")
        return _Value("condition", self._pair(left, sign, right), what)

    def _pair(self, left: _Value, sign: str, right: _Value) -> Any:
        kinds = {left.kind, right.kind}
        compare = _COMPARE[sign]
        if kinds <= {"number", "condition"}:
            return compare(left.data, right.data)
        if "blank" in kinds:
            return np.full(len(self.df), sign == "!=")
        if kinds == {"text", "time"}:
            left, right = (v if v.kind == "time" else self._time(v) for v in (left, right))
        elif kinds not in ({"text"}, {"time"}):
            self.refuse(f"{left.what} is {left.kind}, {right.what} is {right.kind}: they cannot be compared; "
                        "text is written between quotes, numbers without")  # fmt: skip
        present = np.broadcast_to(~(np.asarray(left.missing) | np.asarray(right.missing)), (len(self.df),))
        sides = [v.data[present] if v.rows else v.data for v in (left, right)]
        if not left.rows and not right.rows:
            return compare(*sides)
        found = np.full(len(self.df), sign == "!=")  # as everywhere: an empty cell differs from all
        found[present] = compare(*sides)
        return found

    def _time(self, value: _Value) -> _Value:
        if value.rows:
            self.refuse(f"{value.what} is text, not a time")
        try:
            return _Value("time", np.datetime64(pd.Timestamp(value.data).tz_localize(None), "ns"), value.what)
        except (ValueError, TypeError, OverflowError):
            self.refuse(f"{value.what} is no time; write '2026-01-31' or '2026-01-31 12:00'")
