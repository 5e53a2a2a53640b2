"""A study's config file, which is the user's program: run, changed by the command line, its paths made absolute."""

import importlib.util
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cptlaw.errors import UserError
from cptlaw.paths import split_url

_OWN = re.compile(r"(?P<scheme>recipe:)?(?P<file>.+?\.py):(?P<name>\w+)(:(?P<of>.+))?")


def read(path: Path | str, overrides: Sequence[str] = ()) -> Any:
    """The config that get_config() of a file returns, or get_config(VARIANT) of FILE.py:VARIANT.

    Args:
      overrides: words of the command line that change fields, `--config.model.layers=4`.

    A relative path in it (a corpus, a vocabulary, weights) that is there below the config's folder is taken from there,
    whatever the working directory; another one stays as it is.

    Raises:
      UserError: naming the line that fails, or the override that names no field.
    """
    named, _, variant = str(path).rpartition(".py:")
    file = Path(f"{named}.py") if named else Path(path)
    config = _run(file, variant if named else None)
    if overrides:
        config = _overridden(config, overrides)
    return _from_folder(config, file.resolve().parent)


def _run(path: Path, variant: str | None) -> Any:
    spec = importlib.util.spec_from_file_location("cptlaw_user_config", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path}: no such Python file; start from a copy of configs/demo.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path}: has no get_config(); start from a copy of configs/demo.py")
        return module.get_config() if variant is None else module.get_config(variant)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file is the user's program, which may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{path}, line {line}" if line else str(path)
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


def _overridden(config: Any, overrides: Sequence[str]) -> Any:
    """The config with the fields that the words give, in the types that it has them in."""
    from absl import flags
    from ml_collections import ConfigDict, config_flags

    values, words = flags.FlagValues(), ["cptlaw", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", ConfigDict(config), flag_values=values, sys_argv=words)
        left = values(words)
    except (AttributeError, KeyError) as error:  # how ml_collections says that there is no such field
        field = re.findall(r"[A-Za-z_]\w*", str(error))[0]
        raise UserError(f"{field}: the config file has no such field; add it there to override it") from None
    except (flags.Error, ValueError, TypeError) as error:
        raise UserError(str(error).strip()) from None
    if left[1:]:
        raise UserError(f"unexpected argument {left[1]!r}; flags are written --name=value")
    return values.config


def _from_folder(config: Any, folder: Path) -> Any:
    """The config with the paths that lie below its file's folder."""
    if hasattr(corpora := _get(config, "corpora"), "items"):
        for name, corpus in list(corpora.items()):
            fields, field = (corpora, name) if isinstance(corpus, str) else (corpus, "source")
            _replace(fields, field, folder)
    _replace(_get(config, "vocabulary"), "path", folder)
    if hasattr(weights := _get(config, "init_from"), "items"):
        for size in list(weights):
            _replace(weights, size, folder)
    for part, field in (("base", "schedule"), ("cpt", "schedule"), ("optimizer", "kind"), ("fit", "law")):
        _replace(_get(config, part), field, folder)
    monitor = _get(config, "monitor")
    if isinstance(writers := _get(monitor, "writers"), list | tuple):
        monitor["writers"] = type(writers)(_there(one, folder) if isinstance(one, str) else one for one in writers)
    return config


def _get(fields: Any, name: str) -> Any:
    return fields.get(name) if hasattr(fields, "get") else None


def _replace(fields: Any, name: str, folder: Path) -> None:
    if isinstance(text := _get(fields, name), str) and (there := _there(text, folder)) != text:
        fields[name] = there


def _there(text: str, folder: Path) -> str:
    """A relative path as an absolute one, if there is something of that name (or pattern) below the folder."""
    if (own := _OWN.fullmatch(text)) is not None:  # FILE.py:NAME, and of weights its folder
        of = own["of"] and f":{_there(own['of'], folder)}"
        return f"{own['scheme'] or ''}{_there(own['file'], folder)}:{own['name']}{of or ''}"
    plain = Path(text)
    if split_url(text) is not None or text.partition(":")[0] in ("recipe", "tfds") or plain.is_absolute():
        return text
    first = next((i for i, part in enumerate(plain.parts) if set(part) & set("*?[")), len(plain.parts))
    beginning = folder.joinpath(*plain.parts[:first])
    return str(folder / plain) if first and beginning.exists() else text
