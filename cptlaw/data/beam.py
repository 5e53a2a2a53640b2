"""Documents to tokens by Apache Beam, for corpora that one machine cannot tokenise in time.

It yields the documents that `tokenise` yields, in the same order, so that the token store is the same byte for byte,
whatever the runner. What Beam's workers share with the process that starts them is a file system: they read the
corpus's files there and leave the tokens there. Texts are never shuffled. Digests of documents are, to find duplicates
and the sample of a cap; then each file is read a second time by whichever worker takes it, and tokenised.

A file is the unit of work, so that a corpus in one file is one worker's. When the parts of a file are written, a record
of them follows: a build that was killed reads such files once more for their digests, and tokenises the rest.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from cptlaw import atomic, records
from cptlaw.data import readers, tokenise
from cptlaw.data.corpora import Corpus
from cptlaw.data.documents import CorpusError, Key, content_key
from cptlaw.data.store import StoreError
from cptlaw.data.tokenise import PART, Part
from cptlaw.data.vocabularies import Vocabulary
from cptlaw.errors import UserError

# (its file's number among the corpus's, its own among the file's, rank, UTF-8 bytes) of a document. Beam's integers
# have a sign, so that a rank is its eight bytes.
Place = tuple[int, int, bytes, int]


@dataclasses.dataclass(frozen=True)
class Runner:
    """Which workers: a Beam runner's name ("DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner") and its
    options as Beam writes them ("--flink_master=host:8081")."""

    name: str
    options: Sequence[str] = ()

    def pipeline_options(self) -> PipelineOptions:
        return PipelineOptions([f"--runner={self.name}", *self.options])

    def check(self) -> None:
        """Raises UserError for a runner or an option that Beam does not know; options it would leave out silently."""
        try:
            create_runner(self.name)
        except Exception as error:  # it imports what the name says
            raise UserError(f"--runner={self.name}: no runner of Apache Beam ({error})") from None
        known = PipelineOptions([]).get_all_options()
        for option in self.options:
            name = option.removeprefix("--").partition("=")[0]
            if not option.startswith("--") or name.removeprefix("no_") not in known:
                raise UserError(f"--pipeline_options: {option!r} is no option of Apache Beam; write --name=value")


def tokenise_by(
    runner: Runner,
    corpus: Corpus,
    side: str,
    validation_share: float,
    vocabulary: Vocabulary,
    directory: Path,
    advance: Callable[[int], Any] = lambda documents: None,
) -> Iterator[Part]:
    """Tokenises one side of a corpus of files and yields its documents as `tokenise` would.

    Args:
      runner: whose workers see the corpus's files and `directory` under the same paths.
      corpus: its `dropped` is set, as by `Corpus.split`.
      directory: where the parts are kept; the caller removes it when it needs them no more.
      advance: called with the number of documents of each part.

    Raises:
      CorpusError: a file with a bad row; of several the first.
      UserError: Beam failed.
      StoreError: workers left no tokens where this process sees them.
    """
    work = _Work(corpus, side, validation_share, vocabulary, directory.absolute())
    files = [(number, str(path.absolute())) for number, path in enumerate(corpus.files)]
    missing = [item for item in files if not work.record(item[0]).exists()]
    if missing:
        directory.mkdir(parents=True, exist_ok=True)
        _run(runner, work, files, missing)
    made = [_made(work.record(number), path) for number, path in files]
    corpus.dropped.clear()
    for record in made:
        corpus.dropped.update(record["dropped"])
    parts = (_load(work.part(number, i)) for number, _ in files for i in range(made[number]["parts"]))
    for part in (part for part, _ in parts) if side == "train" else _in_hash_order(list(parts)):
        advance(part.lengths.size)
        yield part


class _Work:
    """What workers do with a file; it travels to them by pickle."""

    def __init__(self, corpus: Corpus, side: str, validation_share: float, vocabulary: Vocabulary, directory: Path):
        self.rules, self.limit = corpus.rules, corpus.limit(side)
        self.side, self.share, self.vocabulary, self.directory = side, validation_share, vocabulary, directory

    def record(self, file: int) -> Path:
        return self.directory / f"{file:08d}.json"

    def part(self, file: int, number: int) -> Path:
        return self.directory / f"{file:08d}-{number:06d}.npz"

    def error(self, file: int) -> Path:
        return self.directory / f"{file:08d}.error"

    def _texts(self, path: str, bad: Counter[str]) -> Iterator[tuple[int, Key, str]]:
        """(number among the file's documents, key, text) of those on this side."""
        for number, document in enumerate(readers.read(Path(path), self.rules, bad)):
            key = content_key(document.text)
            if (key.side < self.share) == (self.side == "validation"):
                yield number, key, document.text

    def digests(self, item: tuple[int, str]) -> Iterator[tuple[bytes, Place]]:
        """The digest and place of each document of a file that is not blank."""
        file, path = item
        try:
            for number, key, text in self._texts(path, Counter()):
                if text and not text.isspace():
                    yield key.digest, (file, number, _rank(key), len(text.encode()))
        except CorpusError as error:
            # A runner says in its own way, or not at all, what a worker raised.
            atomic.write_text(self.error(file), str(error))
            raise

    def tokens(self, item: tuple[int, dict[str, Iterable[Any]]], last_rank: bytes | None) -> None:
        """Tokenises the wanted documents of a file: those up to `last_rank` that no earlier document equals."""
        file, given = item
        paths, repeated = list(given["path"]), set(given["repeated"])
        if not paths:
            return  # an earlier build wrote this file's parts; it is here for its duplicates
        dropped: Counter[str] = Counter()

        def texts() -> Iterator[str]:
            for number, key, text in self._texts(paths[0], dropped):
                if last_rank is not None and _rank(key) > last_rank:
                    continue
                if number in repeated:
                    dropped["duplicates"] += 1
                elif not text or text.isspace():
                    dropped["blank documents"] += 1
                else:
                    yield text

        count = 0
        for part in tokenise.in_parts(texts()):
            order: dict[str, Any] = {"ranks": np.array([content_key(text).rank for text in part], np.uint64)}
            order["characters"] = np.array([len(text) for text in part])
            with atomic.replacing(self.part(file, count)) as temporary:
                np.savez(temporary, **tokenise.encode(self.vocabulary, part)._asdict(), **order)
            count += 1
        records.write(self.record(file), {"parts": count, "dropped": dict(dropped)})


def _run(runner: Runner, work: _Work, files: list[tuple[int, str]], missing: list[tuple[int, str]]) -> None:
    for number, _ in files:
        work.error(number).unlink(missing_ok=True)
    try:
        with beam.Pipeline(options=runner.pipeline_options()) as pipeline:
            equal = (
                pipeline
                | "all files" >> beam.Create(files)
                | beam.Reshuffle()
                | "digests" >> beam.FlatMap(work.digests)
                | "equal documents" >> beam.GroupByKey()
                | "in order" >> beam.Map(lambda item: sorted(item[1]))
            )
            last_rank: Any = None
            if work.limit is not None:
                ranks = equal | "first of equals" >> beam.Map(lambda places: places[0][2:])
                last_rank = beam.pvalue.AsSingleton(ranks | "sample" >> beam.CombineGlobally(_LastRank(work.limit)))
            repeated = equal | "others" >> beam.FlatMap(lambda places: [place[:2] for place in places[1:]])
            paths = pipeline | "files to tokenise" >> beam.Create(missing)
            _ = (
                {"path": paths, "repeated": repeated}
                | "by file" >> beam.CoGroupByKey()
                | "tokens" >> beam.Map(work.tokens, last_rank)
            )
    except Exception as error:  # a runner may raise anything
        for number, _ in files:
            if work.error(number).exists():
                raise CorpusError(work.error(number).read_text()) from None
        raise UserError(f"--runner={runner.name}: Apache Beam failed: {str(error).strip()[-600:]}") from error


class _LastRank(beam.CombineFn):
    """The rank up to which documents together have at most `limit` bytes (at least one document); see `Corpus`."""

    def __init__(self, limit: int):
        self.limit = limit

    def create_accumulator(self) -> list[tuple[bytes, int]]:
        return []

    def add_input(self, accumulator: list[tuple[bytes, int]], element: tuple[bytes, int]) -> list[tuple[bytes, int]]:
        accumulator.append(element)
        return self._fitting(accumulator) if len(accumulator) % (1 << 16) == 0 else accumulator

    def merge_accumulators(self, accumulators: Iterable[list[tuple[bytes, int]]]) -> list[tuple[bytes, int]]:
        return self._fitting(list(itertools.chain(*accumulators)))

    def extract_output(self, accumulator: list[tuple[bytes, int]]) -> bytes:
        fitting = self._fitting(accumulator)
        return fitting[-1][0] if fitting else b""

    def _fitting(self, documents: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        documents.sort()
        sums = itertools.accumulate(size for _, size in documents)
        count = sum(1 for _ in itertools.takewhile(lambda total: total <= self.limit, sums))
        return documents[: max(count, 1)]


def _rank(key: Key) -> bytes:
    return key.rank.to_bytes(8, "big")


def _made(path: Path, source: str) -> dict[str, Any]:
    cure = "delete it and prepare again"
    record = records.read(path, {"parts": int, "dropped": dict}, cure, StoreError)
    if record is None:
        raise StoreError(
            f"{path}: a worker tokenised {source} and left nothing here; the workdir has to be on a file system that "
            "the runner's workers share with this machine, under the same path"
        )
    return record


def _load(path: Path) -> tuple[Part, dict[str, np.ndarray]]:
    """A part, and of each document rank and number of characters."""
    with np.load(path) as arrays:
        return Part(**{name: arrays[name] for name in Part._fields}), {
            name: arrays[name] for name in ("ranks", "characters")
        }


def _in_hash_order(parts: list[tuple[Part, dict[str, np.ndarray]]]) -> Iterator[Part]:
    """The documents of the parts in the order of their ranks, again in parts of PART characters."""
    if not parts:
        return
    whole = Part(*(np.concatenate(arrays) for arrays in zip(*(part for part, _ in parts))))
    ranks, characters = (np.concatenate([order[name] for _, order in parts]) for name in ("ranks", "characters"))
    starts = whole.lengths.cumsum() - whole.lengths
    chosen: list[int] = []
    size = 0
    for i in np.argsort(ranks, kind="stable"):
        chosen.append(int(i))
        size += int(characters[i])
        if size >= PART:
            yield _of(whole, starts, chosen)
            chosen, size = [], 0
    if chosen:
        yield _of(whole, starts, chosen)


def _of(whole: Part, starts: np.ndarray, chosen: list[int]) -> Part:
    tokens = np.concatenate([whole.tokens[starts[i] : starts[i] + whole.lengths[i]] for i in chosen])
    return Part(tokens, *(array[chosen] for array in whole[1:]))
