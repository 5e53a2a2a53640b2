"""The flags with which every command reads a runs table, and lists of names on the command line.

In such lists a comma inside double quotes belongs to the name: `--columns 'loss="bits_per_byte,none",params=N'`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from cptlaw import units
from cptlaw.errors import UserError


def add_arguments(parser: argparse.ArgumentParser, *, eval: bool = True, loss: str = "--loss") -> None:
    """Adds the flags that `read` reads.

    Args:
      eval: adds --eval, which names the corpus of a table without that column.
      loss: the flag of wide tables; `--losses` where --loss is taken.
    """
    flags = parser.add_argument_group("how the table is read")
    flags.add_argument(
        "--columns", action="append", default=[], metavar="OURS=THEIRS,...",
        help="map foreign headers: params=N,loss=val, 'w_*=share_*'; one with a comma: 'loss=\"eval/loss, code\"'; "
        "may be repeated",
    )  # fmt: skip
    flags.add_argument(
        loss, *(["--losses"] if loss != "--losses" else []), dest="losses", action="append", default=[],
        metavar="CORPUS=THEIRS,...",
        help="a table with one loss column a corpus: med=val/loss_med,web=val/loss_web, or '*=val/loss_*'; "
        "may be repeated",
    )  # fmt: skip
    flags.add_argument(
        "--join", type=Path, metavar="TABLE",
        help="a second table, whose columns are added to the rows of the same run (or index, name, run_id)",
    )  # fmt: skip
    flags.add_argument(
        "--set", dest="constants", action="append", default=[], metavar="COLUMN=X,...",
        help="columns that are the same in all rows: params=160M; may be repeated",
    )  # fmt: skip
    flags.add_argument(
        "--tokens-per-step", type=number, metavar="N",
        help="make tokens of a column step: the sequences of a batch times the tokens of each",
    )  # fmt: skip
    if eval:
        flags.add_argument("--eval", metavar="CORPUS", help="the corpus of a table without a column eval")
    flags.add_argument("--where", metavar="CONDITION", help="use only these rows: \"params < 1e9 and run != 'x'\"")
    flags.add_argument(
        "--encoding", metavar="NAME", help="encoding of the text, if it is not UTF-8: gb18030, cp1252, ..."
    )
    flags.add_argument("--max-line", type=int, metavar="BYTES", help="refuse a text with a longer line (default 4 MiB)")
    flags.add_argument(
        "--per-byte", action="store_true",
        help="compare rows of different tokenizers: losses in bits per byte, by a column bytes_per_token",
    )  # fmt: skip
    flags.add_argument(
        "--trust-units", action="store_true", help="accept sizes, tokens and losses that look like another unit"
    )


def read(args: argparse.Namespace, path: Path, *, eval: str | None = None, where: bool = True, like: Any = ()) -> Any:
    """The table at `path`, or the shipped one of that name, under the flags of `add_arguments`.

    What was understood is told on stderr.

    Args:
      eval: the corpus of a table without that column, where the command knows it.
      where: apply --where.
      like: fits; where no flag says how the table is read, it is read as theirs was.

    Raises:
      UserError: a flag or a table that cannot be used, or fits of tables that were read differently.
    """
    from cptlaw import runs, tables

    given, path = path, tables.path(path)
    limit = {} if getattr(args, "max_line", None) is None else {"max_line": args.max_line}
    if not (asked := _asked(args)) and (asked := remembered(like, path)).keys() - {"eval", "where"}:
        _tell(args, path, ["read as the fit's table was"])
    if args_where := getattr(args, "where", None):
        asked["where"] = args_where
    if not where:
        asked.pop("where", None)
    named = eval or getattr(args, "eval", None) or asked.pop("eval", None)
    table = runs.read(path, **{**asked, "eval": named}, **limit)
    table.attrs["reading"]["table"] = str(given)  # a shipped table goes by its name
    _tell(args, path, table.attrs.get("notes", ()))
    return table


def read_runs(args: argparse.Namespace, source: str) -> Any:
    """The runs of a tracker (`wandb:ENTITY/PROJECT`, ...) as a table, under the flags of `add_arguments`."""
    from cptlaw import runs

    asked = _asked(args)
    asked.pop("encoding", None)
    table = runs.read_runs(source, **asked, where=args.where, eval=args.eval)
    _tell(args, source, table.attrs.get("notes", ()))
    return table


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `runs.read` that the flags give, --where and --eval aside."""
    found = {
        "columns": pairs("--columns", getattr(args, "columns", []), "OURS=THEIRS, e.g. params=N"),
        "losses": pairs("--loss", getattr(args, "losses", []), "CORPUS=THEIRS, e.g. web=val/loss_web"),
        "constants": pairs("--set", getattr(args, "constants", []), "COLUMN=X, e.g. params=160M"),
        **{name: getattr(args, name, None) for name in ("join", "tokens_per_step", "encoding")},
        "trust_units": getattr(args, "trust_units", False),
        "per_byte": getattr(args, "per_byte", False),
    }
    return {name: value for name, value in found.items() if value}


def _tell(args: argparse.Namespace, source: Any, notes: Any) -> None:
    """Says on stderr how a table was understood, unless --quiet."""
    for note in notes if not getattr(args, "quiet", False) else ():
        print(f"note: {source}: {note}", file=sys.stderr)


def remembered(fits: Any, path: Path) -> dict[str, Any]:
    """How the table of these fits was read: the arguments of `runs.read`, of a table under our own headers none.

    Raises:
      UserError: they were read differently.
    """
    ways = [{k: v for k, v in fit.settings.get("reading", {}).items() if k != "table"} for fit in fits]
    apart = [{k: v for k, v in way.items() if k not in ("eval", "where")} for way in ways]
    if any(way != apart[0] for way in apart):
        raise UserError(f"{path}: the fits are of tables that were read differently; say with --columns how to read it")
    same = all(way == ways[0] for way in ways)
    return dict(ways[0] if same else apart[0]) if ways else {}


def table_of(fits: Any) -> Path | None:
    """The table that these fits are of, if it is where it was; None if they are of several, or it is not."""
    from cptlaw import tables

    found = {str(fit.settings.get("reading", {}).get("table", "")) for fit in fits}
    path = Path(found.pop()) if len(found) == 1 else Path()
    return path if tables.path(path).is_file() else None


def names(text: str | None, known: Any = ()) -> list[str]:
    """The names of a list; the whole text where it is one of `known`, so that a corpus may have a comma."""
    if text is not None and text in set(known):
        return [text]
    return [_bare(part) for part in _split(text or "", ",") if part]


def pairs(flag: str, texts: list[str] | str, form: str = "NAME=VALUE") -> dict[str, str]:
    """`NAME=VALUE,...` as a dictionary. A part without `=` belongs to the value before it, comma included.

    Raises:
      UserError: a part that is no pair, or a name given twice.
    """
    found: dict[str, str] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        parts: list[list[str]] = []
        for part in _split(text, ","):
            name, *value = _split(part, "=", 1)
            if value:
                parts.append([name, value[0]])
            elif part and parts:
                parts[-1][1] += f",{part}"
            elif part:
                raise UserError(f"{flag} {part}: write {form}")
        for name, one in parts:
            name = _bare(name)
            if name in found:
                raise UserError(f"{flag}: {name} is given twice")
            found[name] = _bare(one)
    return found


def _split(text: str, sign: str, most: int = -1) -> list[str]:
    """The text at each sign that stands outside double quotes."""
    parts, inside = [""], False
    for letter in text:
        if letter == sign and not inside and len(parts) - 1 != most:
            parts.append("")
            continue
        inside ^= letter == '"'
        parts[-1] += letter
    return parts


def _bare(text: str) -> str:
    text = text.strip()
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def number(text: str) -> float:
    """`7e9`, `7B`, `2.1B`, `512k` or `30%` as a number; for argparse."""
    try:
        return units.number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, such as 7e9, 7B or 30%") from None


def numbers(text: str) -> list[float]:
    """`1e6,2M` as numbers; for argparse."""
    try:
        return [units.number(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor numbers separated by commas") from None


def named(text: str) -> dict[str, float]:
    """`NAME=NUMBER,...` as a dictionary; for argparse."""
    try:
        return {name: units.number(value) for name, value in pairs("", text).items()}
    except (ValueError, UserError):
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=NUMBER,NAME=NUMBER") from None


FACTOR = "a column whose levels get an offset each: decayed, schedule, lr_factor"


def at(text: str) -> tuple[str, str]:
    """The type of `--at COLUMN=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write COLUMN=VALUE")
    return name, value


def at_level(fit: Any, given: list[tuple[str, str]]) -> tuple[Any, list[tuple[str, str]]]:
    """The fit at the level of its factor that `--at` gives, and what else `--at` gives.

    Raises:
      UserError: the fit has a factor, and no level or an unknown one is given.
    """
    if fit.law.factor is None:
        return fit, given
    column, levels = fit.law.factor.column, ", ".join(sorted(fit.law.factor.levels))
    own = [value for name, value in given if name == column]
    if len(own) != 1:
        raise UserError(f"this fit has a factor: choose one level with --at {column}=LEVEL; there are {levels}")
    return fit.at_level(own[0]), [(name, value) for name, value in given if name != column]
