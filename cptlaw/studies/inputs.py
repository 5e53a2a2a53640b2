"""What a study needs from outside its config, looked at before anything is fetched, tokenised or trained."""

import importlib.util
import sys
from pathlib import Path

from cptlaw.data import folders, recipes
from cptlaw.data.corpora import Spec
from cptlaw.data.vocabularies import BYTES, open_vocabulary
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError, in_field
from cptlaw.registry import is_own
from cptlaw.studies.settings import Study
from cptlaw.training.writers import WRITERS


def check(study: Study) -> None:
    """Raises ConfigError for a corpus, vocabulary, folder of weights or package that the study names and that is not
    there."""
    for writer in study.monitor.writers:
        if is_own(writer):
            with in_field("config.monitor.writers"):
                WRITERS.find(writer)
        elif not _installed(writer):
            raise ConfigError("config.monitor.writers", f"{writer} is not installed: pip install {writer}")
    for name in study.names:
        path = f"config.corpora.{name}.source" if not isinstance(study.corpora[name], str) else f"config.corpora.{name}"
        _check_source(Spec.of(name, study.corpora[name]).source, path)
    ids = vocabulary_ids(study)
    for size in dict.fromkeys(study.grid_sizes().values()):
        if size in study.init_from:
            study.vocab_size(size, ids)
            _check_weights(study.init_from[size], f"config.init_from.{size}")


def vocabulary_ids(study: Study) -> int:
    """Token ids of the study's vocabulary."""
    if study.vocabulary.kind == "file":
        try:
            return open_vocabulary(Path(study.vocabulary.path), study.vocabulary.eos).size
        except UserError as error:
            raise ConfigError("config.vocabulary.path", str(error).removeprefix("vocabulary: ")) from error
    return BYTES.size if study.vocabulary.kind == "bytes" else study.vocabulary.size


def _check_source(source: str, path: str) -> None:
    scheme, _, rest = source.partition(":")
    if scheme == "recipe":
        try:
            recipes.get(rest)
        except UserError as error:
            raise ConfigError(path, str(error)) from error
    elif scheme == "tfds":
        if not rest:
            raise ConfigError(path, "tfds:NAME names a TensorFlow Datasets builder, such as tfds:c4/en")
        if not _installed("tensorflow_datasets"):
            raise ConfigError(path, "tfds: sources need tensorflow_datasets: pip install 'cptlaw[train]'")
    else:
        try:
            folders.find(path, source)
        except UserError as error:
            raise ConfigError(path, str(error).removeprefix(f"corpus {path!r}: ")) from error


def _check_weights(place: str, path: str) -> None:
    from cptlaw.models import weights

    try:
        weights.check(place)
    except UserError as error:
        raise ConfigError(path, str(error)) from error


def _installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None
