"""Where text comes from (recipes, files, TensorFlow Datasets), and which of it is trained and validated on.

A source is one of
  recipe:NAME            see `cptlaw.data.recipes`
  tfds:NAME              a TensorFlow Datasets builder, `name`, `name/config` or `name/config:version`, prepared where
                         $TFDS_DATA_DIR says. The text of c4/en, wikipedia/20230601.en and wiki40b/en is in the field
                         "text", that of scientific_papers/arxiv (or /pubmed) in "article", of pg19 in "book_text".
  a file or a folder     .jsonl (also .jsonl.gz, .jsonl.zst, .json.gz, .json.zst) and .parquet hold a document a row;
                         any other file is one UTF-8 document. A folder may mix them.

At full size a corpus is read in a stream; what is held in memory is the digest of every document taken (about 100 bytes
each) and the validation documents themselves: set `validation_bytes` where a twentieth of the corpus is too much.
"""

import dataclasses
import gzip
import hashlib
import heapq
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any

from cptlaw import atomic
from cptlaw.data import recipes
from cptlaw.data.documents import Document, Key, content_key
from cptlaw.errors import UserError, did_you_mean
from cptlaw.fields import NotEmpty, at_least

SPLITS = ("train", "validation")
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")

# Files of this many bytes are hashed once, not at every start: a terabyte takes half an hour.
_REMEMBERED = 1 << 26


class CorpusError(UserError):
    """A source that cannot be read, or that holds no usable text."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is asked for.

    Attributes:
      source: see the module's docstring.
      text_field: field or column of JSON lines, Parquet and TensorFlow Datasets that holds the text.
      tfds_split: which part of a TensorFlow Datasets builder to read, such as "train[:1%]"; it is split again here.
      max_bytes: take a random sample of the training documents of at most that many bytes (at least one document);
        larger samples contain smaller ones. None takes everything.
      validation_bytes: the same for the validation documents.
    """

    source: Annotated[str, NotEmpty()]
    text_field: Annotated[str, NotEmpty()] = "text"
    tfds_split: Annotated[str, NotEmpty()] = "train"
    max_bytes: Annotated[int | None, at_least(1)] = None
    validation_bytes: Annotated[int | None, at_least(1)] = None

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
        for field in ("max_bytes", "validation_bytes"):
            cap = getattr(spec, field)
            if cap is not None and (not isinstance(cap, int) or cap < 1):
                raise CorpusError(
                    f"corpus {name!r}: {field} is {cap!r}; give a number of bytes, or None to take everything"
                )
        return spec


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Text that can be read again and again.

    Attributes:
      spec: what was asked for.
      fingerprint: of the content, or of the pinned thing it is made from: equal fingerprints, equal documents.
      licence, attribution: of a recipe; None for sources of your own.
      documents: starts one pass over all documents.
    """

    spec: Spec
    fingerprint: str
    documents: Callable[[], Iterator[Document]]
    licence: str | None = None
    attribution: str | None = None

    def split(self, side: str, validation_share: float) -> Iterator[Document]:
        """The training or the validation documents, exact duplicates and blank documents left out.

        A document is for validation when its content hash, taken as a number in [0, 1), is below `validation_share`:
        this depends on nothing but its text, so no text is on both sides. Validation documents come in hash order, so
        that the first ones are a random sample; training documents come in the source's order.
        """
        limit = self.spec.max_bytes if side == "train" else self.spec.validation_bytes
        last_rank = self._last_rank(side, validation_share, limit) if limit is not None else 2**64
        chosen = self._side(side, validation_share, lambda key: key.rank <= last_rank)
        pairs = chosen if side == "train" else sorted(chosen, key=lambda pair: pair[0].rank)
        return (document for _, document in pairs)

    def _side(
        self, side: str, validation_share: float, wanted: Callable[[Key], bool]
    ) -> Iterator[tuple[Key, Document]]:
        seen = set()  # only of the wanted, so that a sample of a large corpus takes the memory of a sample
        for document in self.documents():
            key = content_key(document.text)
            if (key.side < validation_share) == (side == "validation") and wanted(key) and key.digest not in seen:
                seen.add(key.digest)
                if document.text.strip():
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
      CorpusError: no such path, nothing in it; while reading: a bad line, a missing field, text that is not UTF-8.
      recipes.Offline, recipes.RecipeError: see there.
    """
    spec = Spec.of(name, value)
    scheme, _, rest = spec.source.partition(":")
    if scheme == "recipe":
        path, fingerprint = recipes.documents_file(rest, cache_dir)
        recipe = recipes.get(rest)
        return Corpus(spec, fingerprint, lambda: _records(path, "text"), recipe.licence, recipe.attribution)
    if scheme == "tfds":
        fingerprint = hashlib.sha256(f"{spec.source} {spec.tfds_split} {spec.text_field}".encode()).hexdigest()
        return Corpus(spec, fingerprint, lambda: _tfds(rest, spec))
    root = Path(spec.source).expanduser()
    files = _files(name, root)
    digest = hashlib.sha256(spec.text_field.encode())
    for path in files:
        digest.update(f"{path.relative_to(root)} {_sha256(path, cache_dir)}\n".encode())
    return Corpus(spec, digest.hexdigest(), lambda: (d for path in files for d in _records(path, spec.text_field)))


def _sha256(path: Path, cache_dir: Path) -> str:
    stat = path.stat()
    if stat.st_size < _REMEMBERED:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    known = cache_dir / "digests" / hashlib.sha256(identity.encode()).hexdigest()
    if not known.exists():
        with path.open("rb") as file:
            atomic.write_text(known, hashlib.file_digest(file, "sha256").hexdigest())
    return known.read_text()


def _files(name: str, root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise CorpusError(
            f"corpus {name!r}: {root}: no such file or folder; give recipe:NAME, tfds:NAME, a folder of files, or a "
            f"text, Parquet or JSON lines file ({', '.join(JSON_LINES)})"
        )
    hidden = (path for path in root.rglob("*") if path.is_file())
    files = [path for path in hidden if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not files:
        raise CorpusError(f"corpus {name!r}: {root}: the folder holds no files")
    return sorted(files)


def _records(path: Path, text_field: str) -> Iterator[Document]:
    if path.name.endswith(JSON_LINES):
        return _json_lines(path, text_field)
    if path.suffix == ".parquet":
        return _parquet(path, text_field)
    return _text(path)


def _text(path: Path) -> Iterator[Document]:
    try:
        yield Document(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8 text ({error}); convert it or move it out of the folder") from None


def _json_lines(path: Path, text_field: str) -> Iterator[Document]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    text = row.get(text_field) if isinstance(row, dict) else None
                    if not isinstance(text, str):
                        fields = ", ".join(map(str, row)) if isinstance(row, dict) else "no object"
                        raise CorpusError(
                            f"{path}, line {number}: no text in field {text_field!r} (the line has: {fields}); "
                            "set text_field to the one that holds the text"
                        )
                    text.encode()  # JSON may hold lone surrogates, which are no text: a ValueError
                    source = row.get("source")
                    yield Document(text, source if isinstance(source, str) else f"{path}:{number}")
    except (ValueError, EOFError, zlib.error, OSError) as error:
        # A UnicodeDecodeError and a JSONDecodeError are ValueErrors; what gzip and Arrow cannot unpack is an OSError
        # without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        where = f"line {number}" if isinstance(error, json.JSONDecodeError) else f"after line {number}"
        raise CorpusError(f"{path}, {where}: not JSON lines ({error}); mend or remove it") from None


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow  # it brings zstd; the standard library has it from Python 3.14 on

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), 1 << 20)
    return path.open("rb")


def _parquet(path: Path, text_field: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise CorpusError(f"{path}: not a Parquet file ({error})") from None
    if text_field not in file.schema_arrow.names:
        names = ", ".join(file.schema_arrow.names)
        raise CorpusError(
            f"{path}: no column {text_field!r} (there are: {names}); set text_field to the one with the text"
        )
    number = 0
    for batch in file.iter_batches(columns=[text_field]):
        for text in batch.column(0).to_pylist():
            if not isinstance(text, str):
                raise CorpusError(f"{path}, row {number}: column {text_field!r} holds {text!r}, not text")
            yield Document(text, f"{path}:{number}")
            number += 1


def _tfds(name: str, spec: Spec) -> Iterator[Document]:
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
        if spec.text_field not in row:
            raise CorpusError(
                f"tfds:{name}: no feature {spec.text_field!r} (there are: {', '.join(sorted(row))}); "
                "set text_field to the one that holds the text"
            )
        text = row[spec.text_field]
        if not isinstance(text, bytes):
            raise CorpusError(f"tfds:{name}: feature {spec.text_field!r} is {type(text).__name__}, not text")
        yield Document(text.decode(), f"tfds:{name}:{number}")
