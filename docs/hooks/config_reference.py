"""MkDocs hook: `reference/config.md`, every field of a config, from the dataclasses that check it."""

import collections
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from cptlaw import fields
from cptlaw.data.corpora import Spec
from cptlaw.models.transformer import Config as Model
from cptlaw.registry import Registry
from cptlaw.studies.selection_plan import Plan
from cptlaw.studies.settings import Study
from cptlaw.training.step import Optimizer

PAGE = "reference/config.md"
# Fields of plain mappings, whose values are the fields of another class.
MAPPINGS = {(Study, "corpora"): Spec, (Study, "model"): Model, (Study, "sizes"): Model, (Study, "optimizer"): Optimizer}
TITLES = {Study: "A study", Spec: "A corpus", Model: "A model", Optimizer: "The optimizer", Plan: "A perplexity study"}
HEAD = """# Every field of a config

This page is made from the classes that check a config, so a field that is missing here does not exist. A config is a
Python file with `get_config()`, which returns a `ConfigDict` of the fields of [a study](#a-study);
[your own study](../own_study.md) begins with one. `--config.FIELD=VALUE` changes a field on the command line.
"""


def on_files(files: Files, config: Any) -> Files:
    """Adds the page."""
    missing = undescribed()
    if missing:
        raise PluginError(f"{PAGE}: fields without a line under Attributes in their class's docstring: {missing}")
    files.append(File.generated(config, PAGE, content=page()))
    return files


def undescribed() -> list[str]:
    """The fields that no docstring describes, as CLASS.FIELD."""
    return [f"{cls.__name__}.{field.name}" for cls in classes() for field in shown(cls) if not described(cls, field)]


def page() -> str:
    """The page's Markdown."""
    return "\n".join([HEAD, *(section(cls) for cls in classes())])


def classes() -> list[type]:
    """A study's class, those that its fields hold, and a perplexity study's: each before what it holds."""
    found: list[type] = []
    waiting = collections.deque([Study])
    while waiting:
        cls = waiting.popleft()
        if cls not in found:
            found.append(cls)
            waiting += held(cls)
    return [*found, Plan]


def held(cls: type) -> Iterator[type]:
    """The classes of configs that the fields of one hold."""
    for field in shown(cls):
        if (cls, field.name) in MAPPINGS:
            yield MAPPINGS[cls, field.name]
        yield from (
            part
            for part in parts(types_of(cls)[field.name])
            if dataclasses.is_dataclass(part) and isinstance(part, type)
        )


def shown(cls: type) -> list[dataclasses.Field]:
    """The fields that a config may have."""
    return [field for field in dataclasses.fields(cls) if field.init and (cls, field.name) not in OF_NO_CONFIG]


# What the program fills in itself.
OF_NO_CONFIG = {(Model, "vocab_size"), (Model, "described")}


def types_of(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def parts(kind: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield kind
    for part in typing.get_args(kind):
        yield from parts(part)


def described(cls: type, field: dataclasses.Field) -> str:
    """What the docstring of a class, or of one that it inherits from, says of a field; "" if nothing."""
    for base in cls.__mro__:
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, attributes = text.partition("Attributes:\n")
        for names, said in re.findall(r"^  ([\w, ]+): ((?:.|\n   )*)", attributes, re.MULTILINE):
            if field.name in names.split(", "):
                return " ".join(said.split())
    return ""


def rules(kind: Any) -> Iterator[Any]:
    """The ranges in a type's annotations, those of what it is made of included."""
    if typing.get_origin(kind) is typing.Annotated:
        yield from kind.__metadata__
    for part in typing.get_args(kind):
        yield from rules(part)


def type_name(kind: Any) -> str:
    """A type as a reader of configs needs it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return type_name(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(part) for part in args)
    if origin is tuple:
        return f"several {type_name(args[0])}"
    if origin in (dict, collections.abc.Mapping):
        return f"{type_name(args[0])} → {type_name(args[1])}"
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return f"[{title(kind)}](#{anchor(kind)})"
    return {type(None): "None", Any: "any"}.get(kind) or getattr(kind, "__name__", str(kind))


def allowed(kind: Any) -> str:
    """A type's name and its ranges in words."""
    found = []
    for rule in rules(kind):
        if isinstance(rule, fields.Range):
            found.append(rule.bounds())
        elif isinstance(rule, fields.OneOf):
            found.append("one of " + ", ".join(f"`{name}`" for name in rule.known))
        elif isinstance(rule, Registry):
            found.append("one of " + ", ".join(f"`{name}`" for name in rule) + ", or `FILE.py:NAME`")
        elif isinstance(rule, fields.NotEmpty):
            found.append("not empty")
    return "; ".join(dict.fromkeys([type_name(kind), *(text for text in found if text != "a number")]))


def title(cls: type) -> str:
    return TITLES.get(cls, cls.__name__)


def anchor(cls: type) -> str:
    return re.sub(r"\W+", "-", title(cls).lower())


def default(field: dataclasses.Field) -> str:
    """A field's default as it is written in a config."""
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value):
        return "its defaults"
    return f"`{value:,}`" if isinstance(value, int) and not isinstance(value, bool) else f"`{value!r}`"


def section(cls: type) -> str:
    """A class's heading, what it is, and its table of fields."""
    about = inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes:")[0].replace("\n", " ").strip()
    lines = [
        f"\n## {title(cls)} {{ #{anchor(cls)} }}\n",
        about,
        "",
        "| field | value | default | |",
        "|---|---|---|---|",
    ]
    hints = types_of(cls)
    for field in shown(cls):
        value = allowed(hints[field.name])
        if (cls, field.name) in MAPPINGS:
            other = MAPPINGS[cls, field.name]
            value += f"; the fields of [{title(other)}](#{anchor(other)})"
        cells = f"`{field.name}`", value, default(field), described(cls, field)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
