"""JSON files that one process writes and another reads back: whole or absent, sealed by a hash, checked when read.

The seal is a field of the file, the SHA-256 of all others. One of the others says that there is a seal. A file with
neither, of an earlier version, is read without.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.paths import local

SEAL, SEALED = "seal", "sealed"

Kinds = type | tuple[type, ...]


def digest(value: Any) -> str:
    """SHA-256 of a value that JSON can hold, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def loads_finite(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for anything else, and for a number that is not finite."""
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no JSON number: those are finite")
    return value


def write(path: str | os.PathLike[str], fields: Mapping[str, Any]) -> None:
    """Writes the fields and their seal atomically."""
    atomic.write_bytes(path, dumps(fields))


def dumps(fields: Mapping[str, Any]) -> bytes:
    """The content of a file of the fields and their seal."""
    return (json.dumps(sealed(fields), indent=1) + "\n").encode()


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with their seal."""
    said = {**fields, SEALED: True}
    return {**said, SEAL: digest(said)}


def read(
    path: str | os.PathLike[str], wanted: Mapping[str, Kinds], cure: str, error: type[UserError] = UserError
) -> dict[str, Any] | None:
    """The fields of a file without their seal; None where there is no file.

    Args:
      wanted: name -> type of each field that the file must have.
      cure: what to do about a damaged file, for the message.
      error: the class to raise.

    Raises:
      error: naming the file, and the field where one is missing or of another type.
    """
    try:
        text = local(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}); {cure}") from None
    return loads(text, str(path), wanted, cure, error)


def loads(
    text: bytes, where: str, wanted: Mapping[str, Kinds], cure: str, error: type[UserError] = UserError
) -> dict[str, Any]:
    """The fields of a file's content without their seal; as `read`, and `where` names the file."""
    fields = unsealed(parse(text, where, cure, error), where, cure, error)
    require(fields, wanted, where, cure, error)
    return fields


def parse(text: bytes, where: str, cure: str, error: type[UserError] = UserError) -> dict[str, Any]:
    """A JSON object. Raises `error` naming `where` it is for anything else."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: damaged: not JSON ({str(problem)[:100]}); {cure}") from None
    if not isinstance(fields, dict):
        raise error(f"{where}: damaged: not a JSON object; {cure}")
    return fields


def unsealed(fields: dict[str, Any], where: str, cure: str, error: type[UserError] = UserError) -> dict[str, Any]:
    """The fields without their seal. Raises `error` when they do not agree with it."""
    seal = fields.pop(SEAL, None)
    if (seal is not None or SEALED in fields) and seal != digest(fields):
        raise error(f"{where}: damaged: its fields do not agree with their hash; {cure}")
    fields.pop(SEALED, None)
    return fields


def require(
    fields: Mapping[str, Any], wanted: Mapping[str, Kinds], where: str, cure: str, error: type[UserError] = UserError
) -> None:
    """Raises `error` naming the first field that is missing or of another type. A bool is no number."""
    for name, kinds in wanted.items():
        if name not in fields:
            raise error(f"{where}: damaged: no field {name!r}; {cure}")
        value, known = fields[name], kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, known) or (isinstance(value, bool) and bool not in known):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in known)
            raise error(f"{where}: damaged: field {name!r} is {str(value)[:50]!r}, expected {expected}; {cure}")


def read_lines(
    path: str | os.PathLike[str], wanted: Mapping[str, Kinds], cure: str, error: type[UserError] = UserError
) -> list[dict[str, Any]]:
    """The objects of a JSONL file, none where there is no file. A last line without its end was never written whole.

    Raises `error` naming the file and the line.
    """
    try:
        text = local(path).read_bytes()
    except FileNotFoundError:
        return []
    return loads_lines(text, str(path), wanted, cure, error)


def loads_lines(
    text: bytes, where: str, wanted: Mapping[str, Kinds], cure: str, error: type[UserError] = UserError
) -> list[dict[str, Any]]:
    """The objects of a JSONL file's content; as `read_lines`, and `where` names the file."""
    rows = []
    for number, line in enumerate(text.split(b"\n")[:-1], 1):
        row = parse(line, at := f"{where}: line {number}", cure, error)
        require(row, wanted, at, cure, error)
        rows.append(row)
    return rows
