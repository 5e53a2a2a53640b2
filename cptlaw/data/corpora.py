"""Where text comes from (recipes, files, TensorFlow Datasets), and which of it is trained and validated on.

A source is one of
  recipe:NAME            see `cptlaw.data.recipes`
  tfds:NAME              a TensorFlow Datasets builder, `name`, `name/config` or `name/config:version`, prepared where
                         $TFDS_DATA_DIR says. The text of c4/en, wikipedia/20230601.en and wiki40b/en is in the field
                         "text", that of scientific_papers/arxiv (or /pubmed) in "article", of pg19 in "book_text".
  a file, a folder, or a pattern such as `folder/**/*.md`
                         JSON lines (.jsonl, .ndjson, .jsonlines), .json, .csv, .tsv and .parquet hold a document a row;
                         any other file is one UTF-8 document. All but Parquet may be compressed (.gz, .bz2, .xz, .zst).
                         A folder may mix them. Files that describe it (README, dataset_info.json, _SUCCESS) and hidden
                         ones are left out; formats that are not read are refused: see `folders` and `readers`.

At full size a corpus is read in a stream; what is held in memory is the digest of every document taken (about 100 bytes
each) and the validation documents themselves: set `validation_bytes` where a twentieth of the corpus is too much.
"""

import dataclasses
import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cptlaw import atomic
from cptlaw.data import folders, readers, recipes
from cptlaw.data.documents import CorpusError, Document, Key, content_key, too_long
from cptlaw.data.readers import Bad, Rules
from cptlaw.errors import did_you_mean
from cptlaw.fields import ConfigError, NotEmpty, OneOf, at_least, check

SPLITS = ("train", "validation")

# Files of this many bytes are hashed once, not at every start: a terabyte takes half an hour.
_REMEMBERED = 1 << 26


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is asked for.

    Attributes:
      source: see the module's docstring.
      text_field: field or column that holds the text, where rows have several; `a.b` is field b of the object in a.
      tfds_split: which part of a TensorFlow Datasets builder to read, such as "train[:1%]"; it is split again here.
      max_bytes: take a random sample of the training documents of at most that many bytes (at least one document);
        larger samples contain smaller ones. None takes everything.
      validation_bytes: the same for the validation documents.
      max_document_bytes: a longer document, or a longer line of a file of rows, is a bad row. It bounds what a process
        needs to read and tokenise one document: up to about 16 bytes a byte, see `Vocabulary.cut`.
      on_bad_rows: "refuse" stops at the first row that holds no text; "skip" leaves such rows out and counts them in
        the ledger.
    """

    source: Annotated[str, NotEmpty()]
    text_field: Annotated[str, NotEmpty()] = "text"
    tfds_split: Annotated[str, NotEmpty()] = "train"
    max_bytes: Annotated[int | None, at_least(1)] = None
    validation_bytes: Annotated[int | None, at_least(1)] = None
    max_document_bytes: Annotated[int, at_least(1)] = 1 << 26
    on_bad_rows: Annotated[str, OneOf(("refuse", "skip"))] = "refuse"

    @classmethod
    def of(cls, name: str, value: "str | Mapping[str, Any] | Spec") -> "Spec":
        """From a source, or a mapping of this class's fields. Raises CorpusError for an unknown field or a bad cap."""
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            return cls(value)
        fields = [field.name for field in dataclasses.fields(cls)]
        for field in value:
            if field not in fields:
                hint = did_you_mean(field, fields) or f"there are {', '.join(fields)}"
                raise CorpusError(f"corpus {name!r}: no field {field!r}; {hint}")
        if "source" not in value:
            raise CorpusError(f"corpus {name!r}: no source; give recipe:NAME, tfds:NAME, a file or a folder")
        spec = cls(**value)
        try:
            check(spec, "spec")
        except ConfigError as error:
            field = error.field.partition(".")[2]
            said = f"{field} {error.said}"
            if field.endswith("_bytes"):
                everything = "" if field == "max_document_bytes" else ", or None to take everything"
                said = f"{field} is {getattr(spec, field)!r}; give a number of bytes{everything}"
            raise CorpusError(f"corpus {name!r}: {said}") from None
        return spec

    @property
    def rules(self) -> Rules:
        """How its rows are read."""
        return Rules(self.text_field, self.max_document_bytes, self.on_bad_rows == "skip")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Text that can be read again and again.

    Attributes:
      spec: what was asked for.
      fingerprint: of the content, or of the pinned thing it is made from: equal fingerprints, equal documents.
      licence, attribution: of a recipe; None for sources of your own.
      documents: starts one pass over all documents.
      files, rules: what `documents` reads, file by file, and how; no files of a TensorFlow Datasets builder.
      left_out: names of files in the folder that are not read, and how many there are.
      dropped: what the latest pass left out, and how often: bad rows by reason, blank documents, duplicates.
    """

    spec: Spec
    fingerprint: str
    documents: Callable[[], Iterator[Document]]
    files: Sequence[Path] = ()
    rules: Rules = dataclasses.field(default_factory=Rules)
    licence: str | None = None
    attribution: str | None = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)

    def split(self, side: str, validation_share: float) -> Iterator[Document]:
        """The training or the validation documents, exact duplicates and blank documents left out.

        A document is for validation when its content hash, taken as a number in [0, 1), is below `validation_share`:
        this depends on nothing but its text, so no text is on both sides. Validation documents come in hash order, so
        that the first ones are a random sample; training documents come in the source's order.
        """
        limit = self.limit(side)
        last_rank = self._last_rank(side, validation_share, limit) if limit is not None else 2**64
        chosen = self._side(side, validation_share, lambda key: key.rank <= last_rank)
        pairs = chosen if side == "train" else sorted(chosen, key=lambda pair: pair[0].rank)
        return (document for _, document in pairs)

    def limit(self, side: str) -> int | None:
        """How many bytes of text are taken on this side; None: all."""
        return self.spec.max_bytes if side == "train" else self.spec.validation_bytes

    def _side(
        self, side: str, validation_share: float, wanted: Callable[[Key], bool]
    ) -> Iterator[tuple[Key, Document]]:
        seen = set()  # only of the wanted, so that a sample of a large corpus takes the memory of a sample
        self.dropped.clear()
        for document in self.documents():
            key = content_key(document.text)
            if (key.side < validation_share) != (side == "validation") or not wanted(key):
                continue
            if key.digest in seen:
                self.dropped["duplicates"] += 1
            elif not document.text or document.text.isspace():
                self.dropped["blank documents"] += 1
            else:
                seen.add(key.digest)
                yield key, document

    def _last_rank(self, side: str, validation_share: float, limit: int) -> int:
        """The rank up to which documents together have at most `limit` bytes (at least one document)."""
        largest_first: list[tuple[int, int]] = []
        total, ceiling = 0, 2**64

        def below(key: Key) -> bool:
            return key.rank < ceiling

        for key, document in self._side(side, validation_share, below):
            size = len(document.text.encode())
            heapq.heappush(largest_first, (-key.rank, size))
            total += size
            while total > limit and len(largest_first) > 1:
                negative, size = heapq.heappop(largest_first)
                ceiling, total = -negative, total - size
        return -largest_first[0][0] if largest_first else 0


def open_corpus(name: str, value: str | Mapping[str, Any] | Spec, cache_dir: Path) -> Corpus:
    """The corpus of a source; recipes are fetched, files are read once to know them again.

    Raises:
      CorpusError: no such path, nothing in it, a format that is not read; while reading: a bad row (see `readers`).
      recipes.Offline, recipes.RecipeError: see there.
    """
    spec = Spec.of(name, value)
    scheme, _, rest = spec.source.partition(":")
    if scheme == "recipe":
        path, fingerprint = recipes.documents_file(rest, cache_dir)
        recipe = recipes.get(rest)
        return _of_files(spec, fingerprint, [path], Rules(), licence=recipe.licence, attribution=recipe.attribution)
    digest = hashlib.sha256()
    if scheme == "tfds":
        digest.update(f"{spec.source} {spec.tfds_split} {spec.text_field}".encode())
        if spec.on_bad_rows == "skip":
            digest.update(b" skip")
        dropped: Counter[str] = Counter()

        def rows() -> Iterator[Document]:
            return readers.accept("", _tfds(rest, spec), spec.rules, dropped)

        return Corpus(spec, digest.hexdigest(), rows, dropped=dropped)
    files = folders.find(name, spec.source)
    digest.update(spec.text_field.encode())
    if spec.on_bad_rows == "skip":
        digest.update(b" skip")
    for path in files.paths:
        digest.update(f"{path.relative_to(files.root)} {_sha256(path, cache_dir)}{folders.reading(path)}\n".encode())
    return _of_files(spec, digest.hexdigest(), files.paths, spec.rules, left_out=files.left_out)


def _of_files(spec: Spec, fingerprint: str, files: Sequence[Path], rules: Rules, **facts: Any) -> Corpus:
    dropped: Counter[str] = Counter()

    def documents() -> Iterator[Document]:
        return (document for path in files for document in readers.read(path, rules, dropped))

    return Corpus(spec, fingerprint, documents, files, rules, dropped=dropped, **facts)


def _sha256(path: Path, cache_dir: Path) -> str:
    try:
        stat = path.stat()
        if stat.st_size < _REMEMBERED:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        known = cache_dir / "digests" / hashlib.sha256(identity.encode()).hexdigest()
        if not known.exists():
            with path.open("rb") as file:
                atomic.write_text(known, hashlib.file_digest(file, "sha256").hexdigest())
        return known.read_text()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from None


def _tfds(name: str, spec: Spec) -> Iterator[Document | Bad]:
    from cptlaw.data.vocabularies import quiet_tensorflow

    quiet_tensorflow()
    import tensorflow_datasets as tfds

    try:
        rows = tfds.as_numpy(tfds.load(name, split=spec.tfds_split, shuffle_files=False))
    except Exception as error:  # a builder may raise anything, from a typing mistake to a server's refusal
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CorpusError(
            f"tfds:{name}, split {spec.tfds_split!r}: cannot be read ({reason}); "
            "check name and split in the TensorFlow Datasets catalogue, or prepare it first with `tfds build`"
        ) from error
    for number, row in enumerate(rows):
        if spec.text_field.partition(".")[0] not in row:
            raise CorpusError(
                f"tfds:{name}: no feature {spec.text_field!r} (there are: {', '.join(sorted(row))}); "
                "set text_field to the one that holds the text"
            )
        value = row
        for part in [spec.text_field] if spec.text_field in row else spec.text_field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, bytes):
            raise CorpusError(f"tfds:{name}: feature {spec.text_field!r} is {type(value).__name__}, not text")
        where = f"tfds:{name}:{number}"
        if len(value) > spec.max_document_bytes:
            yield Bad(where, too_long(spec.max_document_bytes))
        else:
            try:
                yield Document(value.decode(), where)
            except UnicodeDecodeError as error:
                yield Bad(where, f"not UTF-8 text ({error})")
