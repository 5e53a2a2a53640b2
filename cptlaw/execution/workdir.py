"""Where a study keeps everything: the only place that knows the names of its files and directories.

A workdir in a bucket has a copy on every machine's disk. Its files are read and written there (`fetch`, `publish`), but
for the runs, which processes of several machines share while they work (`task`).
"""

import dataclasses
import os
import uuid
from pathlib import Path

from cptlaw.paths import local
from cptlaw.storage.bucket import Bucket, is_bucket
from cptlaw.storage.copies import Copy, copy_of
from cptlaw.storage.tasks import BucketTask, PosixTask, Task


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A study's directory. A `Workdir` may be given wherever a path may.

    ROOT/
      config.json          the study that the runs belong to
      data/                vocabulary and token stores; DATA/CORPUS/SPLIT is one store (see `data.store`)
      runs/ID/             one run (see `rundir`)
      plans/               what a sweep's workers read; removed with the sweep
      scores/              chunks of a corpus under a run of the study (see `scoring.chunks`)
      runs.csv             the runs table of the grid
      fits/                saved fits: PART-CORPUS.json of the mixture study, subset-PART-CORPUS-LAW.json of the
                           selection study
      answer-PART.json, confirm-PART.csv       the mixture study's decision, and what the confirming runs measured; a
                           part is a domain, or "mixture", which is all
      report.html or report-PART.html          its report, with its figures beside it
      cross-domain.csv     how well each domain was predicted when it was left out (see `fitting.unseen`)
      subsets-PART.csv, confirm-PART.csv, second-round-PART.csv      the selection study's runs tables; a part is a
                           domain, with the size and the seed of the base model before it where there are several
      subset-PART.json, selected-PART.parquet  its decision, and the list of what it recommends
      landscape-PART.html                      its report
      selection.csv                            a line for each of its parts
    """

    place: str
    root: Path

    def __init__(self, place: str | os.PathLike[str]):
        """`place` is a path, or a URL (gs://, s3://); `root` its folder on this machine."""
        bucket = is_bucket(place)
        object.__setattr__(self, "root", _copy(os.fspath(place)).path if bucket else local(place, "workdir"))
        object.__setattr__(self, "place", Bucket.open(place).url if bucket else str(self.root))

    def __fspath__(self) -> str:
        return self.place

    def __str__(self) -> str:
        return self.place

    @property
    def in_bucket(self) -> bool:
        return is_bucket(self.place)

    def fetch(self) -> None:
        """Brings this machine's copy up to date; on POSIX there is nothing to do."""
        if self.in_bucket:
            _copy(self.place).fetch()

    def publish(self) -> None:
        """Writes to the bucket what is new or other in this machine's copy; on POSIX there is nothing to do."""
        if self.in_bucket:
            _copy(self.place).publish()

    def remove(self, file: Path) -> None:
        """Removes a file of this machine's copy, and from the bucket."""
        file.unlink(missing_ok=True)
        if self.in_bucket:
            Bucket.open(self.place).delete([file.relative_to(self.root).as_posix()])

    @property
    def config(self) -> Path:
        return self.root / "config.json"

    @property
    def data(self) -> Path:
        """What `data.build.prepare` makes: the vocabulary and the token stores."""
        return self.root / "data"

    def store(self, corpus: str, split: str) -> Path:
        return self.data / corpus / split

    @property
    def runs(self) -> Path:
        """The directory of all runs' directories."""
        return self.root / "runs"

    def run(self, run_id: str) -> Path:
        """This machine's directory of a run."""
        return self.runs / run_id

    def task(self, run_id: str) -> Task:
        """A run, to be claimed, worked on and ended."""
        if self.in_bucket:
            return BucketTask(Bucket.open(self.place), f"runs/{run_id}", self.run(run_id))
        return PosixTask(self.run(run_id))

    def run_ids(self) -> list[str]:
        """The runs that were begun."""
        if not self.in_bucket:
            return sorted(path.parent.name for path in self.runs.glob("*/run.json"))
        names = Bucket.open(self.place).list("runs/")
        return sorted(name.split("/")[1] for name in names if name.endswith("/run.json"))

    def new_plan(self) -> Path:
        """A file that no other sweep uses."""
        return self.root / "plans" / f"{uuid.uuid4().hex}.json"

    def scores(self, corpus: str, split: str, run_id: str, chunk: int) -> Path:
        """The scores of one token store under one run."""
        return self.root / "scores" / f"{corpus}-{split}-{run_id}-{chunk}"

    @property
    def table(self) -> Path:
        """The runs table of the grid."""
        return self.root / "runs.csv"

    @property
    def fits(self) -> Path:
        return self.root / "fits"

    def fit(self, part: str, corpus: str) -> Path:
        return self.fits / f"{part}-{corpus}.json"

    def answer(self, part: str) -> Path:
        return self.root / f"answer-{part}.json"

    def confirm(self, part: str) -> Path:
        return self.root / f"confirm-{part}.csv"

    def report(self, part: str | None = None) -> Path:
        """The report of one part; without its name, of a study's only one."""
        return self.root / ("report.html" if part is None else f"report-{part}.html")

    @property
    def cross_domain(self) -> Path:
        return self.root / "cross-domain.csv"

    def subsets(self, part: str) -> Path:
        """The runs table of the subsets that a part of a selection study was fitted to."""
        return self.root / f"subsets-{part}.csv"

    def subset_fit(self, part: str, corpus: str, law: str) -> Path:
        return self.fits / f"subset-{part}-{corpus}-{law}.json"

    def subset(self, part: str) -> Path:
        """The decision on which subset is best."""
        return self.root / f"subset-{part}.json"

    def selected(self, part: str) -> Path:
        """The list of the recommended documents or chunks."""
        return self.root / f"selected-{part}.parquet"

    def second_round(self, part: str) -> Path:
        return self.root / f"second-round-{part}.csv"

    def landscape(self, part: str) -> Path:
        return self.root / f"landscape-{part}.html"

    @property
    def selection(self) -> Path:
        return self.root / "selection.csv"


# Plans are of one machine, and a store's verified.json tells of this machine's files.
def _copy(place: str) -> Copy:
    return copy_of(place, lambda name: not name.startswith(("runs/", "plans/")) and not name.endswith("/verified.json"))
