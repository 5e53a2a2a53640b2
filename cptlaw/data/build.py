"""From corpora to token stores: everything that has to happen once, before training.

A prepared directory holds
  vocabulary/vocabulary.json, and vocabulary/sentencepiece.model or vocabulary/tokenizer.json
  CORPUS/train, CORPUS/validation      token stores, see `cptlaw.data.store`
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cptlaw import atomic, records
from cptlaw.data import vocabularies
from cptlaw.data.corpora import SPLITS, Corpus, CorpusError, Spec, open_corpus
from cptlaw.data.findings import Findings
from cptlaw.data.store import StoreError, TokenStore, Writer, read_ledger, verify
from cptlaw.data.tokenise import tokenise
from cptlaw.data.vocabularies import Vocabulary, VocabularyError
from cptlaw.paths import local
from cptlaw.progress import bar as progress_bar

if TYPE_CHECKING:
    from cptlaw.data.beam import Runner

Stores = dict[str, dict[str, TokenStore]]

_FILES = {"sentencepiece": "sentencepiece.model", "tokenizer": "tokenizer.json"}


def prepare(
    corpora: Mapping[str, str | Mapping[str, Any] | Spec],
    vocab: Mapping[str, Any],
    directory: str | Path,
    cache_dir: str | Path,
    validation_share: float = 0.05,
    progress: bool = False,
    processes: int = 0,
    runner: "Runner | None" = None,
) -> Stores:
    """Fetches, splits and tokenises what is not there yet, and opens all token stores.

    Safe to interrupt or kill and to run again, which goes on from the parts that are done (see `tokenise`), and to run
    twice at once (the second waits). When everything is there it only hashes the sources, to know them again.
    TensorFlow is imported to read a `tfds:` source, and for nothing else.

    Args:
      corpora: name -> source, or the fields of `corpora.Spec`.
      vocab: {"kind": "sentencepiece", "size": 1024, "train_on": name}, {"kind": "bytes"}, or an open model's own
        {"kind": "file", "path": its folder, tokenizer.json or SentencePiece model, "eos": the token that ends a
        document, where the file does not say}.
      directory: where vocabulary and stores live.
      cache_dir: where recipes keep their documents, shared between directories.
      validation_share: expected share of the documents held out; decided by content hash.
      progress: show progress on a terminal.
      processes: how many tokenise; 0 takes one a core, at most 16. With several, a script needs its `__name__` guard.
      runner: Apache Beam's workers tokenise instead (see `data.beam`), but for `tfds:` sources, which are one stream.

    Returns:
      name -> {"train": store, "validation": store}.

    Raises:
      CorpusError, RecipeError, Offline, VocabularyError: see `corpora`, `recipes`, `vocabularies`.
      VocabularyError, StoreError: `directory` holds another vocabulary, or a store made from something else.
    """
    directory, cache_dir = local(directory), local(cache_dir)
    if not 0 < validation_share < 1:
        raise CorpusError(f"validation_share is {validation_share}; give a share between 0 and 1, such as 0.05")
    for name in corpora:
        if not name.isidentifier() or name == "vocabulary":
            raise CorpusError(f"corpus {name!r}: use letters, digits and underscores for names ('vocabulary' is taken)")
    with _lock(directory):
        opened = {}
        for name, source in (
            bar := progress_bar(progress=progress, iterable=corpora.items(), desc="Fetching", leave=False)
        ):
            bar.set_postfix_str(name)
            opened[name] = open_corpus(name, source, cache_dir)
        vocabulary = _vocabulary(opened, vocab, directory / "vocabulary", validation_share)
        return {
            name: {
                split: _store(
                    name,
                    split,
                    corpus,
                    vocabulary,
                    directory / name / split,
                    validation_share,
                    progress,
                    processes,
                    runner,
                )
                for split in SPLITS
            }
            for name, corpus in opened.items()
        }


def load_vocabulary(directory: str | Path) -> Vocabulary:
    """The vocabulary of a prepared directory."""
    path = local(directory) / "vocabulary"
    made = _read_record(path / "vocabulary.json")
    if made is None:
        raise VocabularyError(f"{path}: no vocabulary here; prepare the directory first")
    if made["kind"] == "bytes":
        return vocabularies.BYTES
    begin = tuple(made["begin"]) if "begin" in made else None
    eos_id = made.get("eos_id", vocabularies.EOS_ID)
    return Vocabulary(made["kind"], made["size"], path / _FILES[made["kind"]], eos_id, begin)


def _read_record(path: Path) -> dict[str, Any] | None:
    """What vocabulary.json says, or None where there is none."""
    cure = "delete the prepared directory and prepare it again"
    made = records.read(path, {"kind": str}, cure, VocabularyError)
    if made is None or made["kind"] == "bytes":
        return made
    records.require(made, {"size": int}, str(path), cure, VocabularyError)
    if made["kind"] not in _FILES:
        raise VocabularyError(f"{path}: damaged: field 'kind' is {made['kind'][:50]!r}; {cure}")
    return made


def register(
    corpora: Mapping[str, str | Mapping[str, Any] | Spec], directory: str | Path, cache_dir: str | Path
) -> dict[str, Any]:
    """Registers the seqio Tasks of a prepared directory in this process: name -> Task."""
    from cptlaw.data.tasks import register_task

    vocabulary = load_vocabulary(directory)
    tasks = {}
    for name, source in corpora.items():
        ledger = TokenStore.open(Path(directory) / name / "train").ledger
        corpus = open_corpus(name, source, Path(cache_dir))
        tasks[name] = register_task(ledger["task"], corpus, vocabulary, ledger["made_from"]["validation_share"])
    return tasks


def _vocabulary(
    corpora: Mapping[str, Corpus], asked: Mapping[str, Any], directory: Path, validation_share: float
) -> Vocabulary:
    kind = asked.get("kind")
    if kind not in ("sentencepiece", "bytes", "file"):
        raise VocabularyError(f"vocabulary: kind {kind!r}; choose 'sentencepiece' or 'bytes', or 'file'")
    wanted: dict[str, Any] = {"kind": kind}
    if kind == "file":
        if not asked.get("path"):
            raise VocabularyError("vocabulary: kind 'file' needs a path: of a tokenizer.json, or a model's folder")
        given = vocabularies.open_vocabulary(Path(asked["path"]), asked.get("eos", ""))
        wanted = {"kind": given.kind, "size": given.size, "eos_id": given.eos_id, "sha256": given.hash}
        if given.begin is not None:
            wanted["begin"] = list(given.begin)
    size, name = asked.get("size", 0), asked.get("train_on", "")
    if kind == "sentencepiece":
        if not isinstance(size, int) or size < 1:
            raise VocabularyError(f"vocabulary: size {size!r}; give the number of ids, such as 1024")
        if name not in corpora:
            raise VocabularyError(f"vocabulary: train_on {name!r} is no corpus; there are {', '.join(corpora)}")
        wanted |= {"size": size, "trained_on": _made_from(corpora[name], validation_share)}
    record = directory / "vocabulary.json"
    if (made := _read_record(record)) is not None:
        if made != wanted:
            raise VocabularyError(_refusal(directory, made, wanted))
        return load_vocabulary(directory.parent)
    if kind == "sentencepiece":
        texts = (document.text for document in corpora[name].split("train", validation_share))
        vocabularies.train_sentencepiece(texts, size, directory / _FILES[kind])
    if kind == "file" and given.path:
        atomic.write_bytes(directory / _FILES[given.kind], given.path.read_bytes())
    records.write(record, wanted)
    return load_vocabulary(directory.parent)


def _store(
    name: str,
    split: str,
    corpus: Corpus,
    vocabulary: Vocabulary,
    directory: Path,
    validation_share: float,
    progress: bool,
    processes: int,
    runner: "Runner | None",
) -> TokenStore:
    made_from = _made_from(corpus, validation_share) | {"vocabulary": vocabulary.hash}
    identity = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    parts = directory.with_name(f".{split}-{identity}")
    ledger = read_ledger(directory)
    if ledger is not None:
        made = ledger.get("made_from")
        if made != made_from:
            raise StoreError(_refusal(directory, made if isinstance(made, dict) else {}, made_from))
        shutil.rmtree(parts, ignore_errors=True)  # of a build that was killed at its very end
        verify(directory)
        return TokenStore.open(directory)
    facts = {
        "source": corpus.spec.source,
        "licence": corpus.licence,
        "attribution": corpus.attribution,
        "vocabulary": {"kind": vocabulary.kind, "size": vocabulary.size, "sha256": vocabulary.hash},
        "bos_id": vocabulary.bos_id,
        "eos_id": vocabulary.eos_id,
        "task": f"cptlaw.{name}.{identity}",
        "made_from": made_from,
    }
    bar = progress_bar(progress=progress, desc=f"Tokenising {name}/{split}", unit=" documents", leave=False)
    found = Findings()
    with Writer(directory, vocabulary.size) as writer, bar:
        if runner is not None and corpus.files:
            from cptlaw.data.beam import tokenise_by

            made = tokenise_by(runner, corpus, split, validation_share, vocabulary, parts, bar.update)
        else:
            texts = (document.text for document in corpus.split(split, validation_share))
            made = tokenise(texts, vocabulary, parts, processes, bar.update)
        for part in made:
            writer.extend(part.tokens, part.lengths, part.doc_bytes)
            found.add(part, keep_tokens=split == "validation")
        if not writer.documents:
            raise CorpusError(_no_documents(name, split, corpus, validation_share))
        if split == "validation":
            found.compare(TokenStore.open(directory.with_name("train")), vocabulary)
        store = writer.finish(name, split, facts | found.facts(corpus))
    shutil.rmtree(parts)
    for line in found.in_words(name, split, corpus):
        print(line, file=sys.stderr)
    return store


def _no_documents(name: str, split: str, corpus: Corpus, validation_share: float) -> str:
    what = f"corpus {name!r} ({corpus.spec.source})"
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in corpus.dropped.most_common())
    if split == "train" and next(corpus.split("validation", validation_share), None) is None:
        left_out = f" (left out: {dropped})" if dropped else ""
        return f"{what}: it holds no text{left_out}; check source and text_field"
    return (
        f"{what}: no {split} documents; about one document in {1 / validation_share:.0f} is held out: split long files "
        "into more, or change validation_share"
    )


def _made_from(corpus: Corpus, validation_share: float) -> dict[str, Any]:
    """What decides a corpus's documents and their split; not where the files lie, which may be moved."""
    return {
        "content": corpus.fingerprint,
        "validation_share": validation_share,
        "max_bytes": corpus.spec.max_bytes,
        "validation_bytes": corpus.spec.validation_bytes,
    }


def _refusal(directory: Path, made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    changes = [
        f"{field} was {made.get(field)!r}, now {wanted.get(field)!r}"
        for field in {**made, **wanted}
        if made.get(field) != wanted.get(field)
    ]
    return (
        f"{directory} was made from something else ({'; '.join(changes)}); choose another directory or delete this one"
    )


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be made ({error.strerror}); choose another directory") from None
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that is preparing {directory}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
