"""Apache Beam's workers build the store that one machine builds. Needs the extra `beam`, which no default set has."""

import json
import random
from collections import Counter

import pytest

from cptlaw.data import build, tokenise
from cptlaw.data.corpora import CorpusError
from cptlaw.errors import UserError

pytest.importorskip("apache_beam")
pytestmark = pytest.mark.slow

from cptlaw.data import beam  # noqa: E402  (it imports Apache Beam)

RUNNER = beam.Runner("DirectRunner", ("--direct_num_workers=2", "--direct_running_mode=multi_threading"))
ONE = beam.Runner("DirectRunner")
FILES = ("tokens.bin", "offsets.npy", "doc_bytes.npy", "ledger.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five files of rows; texts are repeated within files and between them, some are blank, one row holds no text."""
    folder = tmp_path_factory.mktemp("text")
    chooser = random.Random(0)
    words = ["one", "two", "three é", "four 😀"]
    texts = [" ".join(chooser.choices(words, k=chooser.randint(3, 9))) for _ in range(300)]
    for number in range(5):
        rows = [{"text": text} for text in chooser.choices(texts, k=120)]
        rows[10] = {"text": " \n"}
        if number == 3:
            rows[20] = {"body": "no text"}
        (folder / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def prepared(folder, directory, runner, **spec):
    corpora = {"mine": {"source": str(folder), "on_bad_rows": "skip", **spec}}
    return build.prepare(corpora, {"kind": "bytes"}, directory, directory, 0.2, processes=1, runner=runner)


def content(directory, split) -> dict[str, bytes]:
    return {name: (directory / "mine" / split / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("caps", [{}, {"max_bytes": 2000, "validation_bytes": 500}, {"max_bytes": 1}], ids=str)
def test_the_store_is_the_same_byte_for_byte(folder, tmp_path, caps, monkeypatch):
    """Duplicates, blank documents, bad rows and caps included, and what the ledger says of them."""
    monkeypatch.setattr(tokenise, "PART", 700)
    monkeypatch.setattr(beam, "PART", 700)
    ours = prepared(folder, tmp_path / "local", None, **caps)["mine"]
    prepared(folder, tmp_path / "beam", RUNNER, **caps)
    for split in ("train", "validation"):
        assert content(tmp_path / "beam", split) == content(tmp_path / "local", split)
    assert not list(tmp_path.rglob("*.npz")), "the parts are removed"
    if not caps:
        dropped = ours["train"].ledger["dropped"]
        assert dropped["duplicates"] > 200 and dropped["no text in field 'text'"] == 1


def test_a_build_that_was_killed_tokenises_the_rest(folder, tmp_path, monkeypatch):
    prepared(folder, tmp_path / "local", None)
    encode, encoded = tokenise.encode, Counter()

    def dies(vocabulary, texts):
        encoded["calls"] += 1
        if encoded["calls"] == 3:
            raise OSError("the machine is gone")
        return encode(vocabulary, texts)

    monkeypatch.setattr(tokenise, "encode", dies)
    with pytest.raises(UserError, match=r"(?s)--runner=DirectRunner: Apache Beam failed: .*the machine is gone"):
        prepared(folder, tmp_path / "beam", ONE)
    assert len(list((tmp_path / "beam").rglob("0*.json"))) == 2
    prepared(folder, tmp_path / "beam", ONE)
    assert encoded["calls"] == 3 + 3 + 5, "three of five files, and those of the other side"
    for split in ("train", "validation"):
        assert content(tmp_path / "beam", split) == content(tmp_path / "local", split)


def test_a_bad_row_is_named_whatever_the_runner_says(folder, tmp_path):
    with pytest.raises(CorpusError, match=r"^\S*3\.jsonl, line 21: no text in field 'text'"):
        prepared(folder, tmp_path, RUNNER, on_bad_rows="refuse")


def test_workers_that_share_no_file_system(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(beam._Work, "record", lambda work, file: tmp_path / "elsewhere" / f"{file}.json")
    write = beam.records.write
    lost = lambda path, fields: None if path.parent.name == "elsewhere" else write(path, fields)  # noqa: E731
    monkeypatch.setattr(beam.records, "write", lost)
    with pytest.raises(UserError, match="share with this machine"):
        prepared(folder, tmp_path, ONE)


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("DirectRuner", (), "--runner=DirectRuner: no runner of Apache Beam"),
        ("DirectRunner", ("--direct_workers=2",), "'--direct_workers=2' is no option"),
        ("DirectRunner", ("direct_num_workers=2",), "write --name=value"),
    ],
)
def test_typing_mistakes_are_refused(name, options, says):
    with pytest.raises(UserError, match=says):
        beam.Runner(name, options).check()
