"""Which files of a source are its text: the format of each, by suffix, and what is left out or refused."""

import dataclasses
import glob
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from cptlaw.data.documents import CorpusError
from cptlaw.paths import local

# Suffixes are compared in lower case.
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
_FORMATS = {
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".jsonlines": "json lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
# Text with marks of its own: what a page says is not what its file holds, so such files are taken only by name.
_MARKUP = (".html", ".htm", ".xhtml", ".xml", ".rtf", ".svg")
# Formats that hold text or data in a way that is not read here. As UTF-8 they would be refused anyway, one by one.
_UNREAD = (
    *(".arrow", ".feather", ".orc", ".avro", ".tfrecord", ".tfrecords", ".h5", ".hdf5", ".lance", ".msgpack", ".warc"),
    *(".pkl", ".pickle", ".npy", ".npz", ".bin", ".idx", ".pt", ".pth", ".safetensors", ".gguf", ".db", ".sqlite"),
    *(".pdf", ".doc", ".docx", ".odt", ".epub", ".xls", ".xlsx", ".ppt", ".pptx", ".ods"),
    *(".ldjson", ".geojson", ".jsonld", ".json5", ".ipynb", ".psv", ".sqlite3"),
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".br", ".snappy", ".lzo"),
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp3", ".mp4", ".wav"),
)
# Files that tell of a data set and are no part of it: its description, and what Spark, Hive, Hugging Face and
# downloads leave beside it.
_ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|notice|changelog|citation|contributing|authors|code_of_conduct|manifest|"
    r"sha256sums|md5sums|checksums)(\.\w+)?"
    r"|(dataset_infos?|dataset_dict|state|metadata|data_card)\.json|_\w+|.*\.(crc|md5|sha1|sha256|lock|tmp|part)",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of a source.

    Attributes:
      root: the file or folder that was named, or the folder in front of a pattern's first wildcard.
      paths: the files to read, sorted.
      left_out: names (or "hidden files") and how many of them are in the folder and are not read.
    """

    root: Path
    paths: list[Path]
    left_out: Mapping[str, int]


def format_of(path: Path) -> str:
    """ "json lines", "json", "csv", "tsv", "parquet" or "text"."""
    return _FORMATS.get(_suffix(path), "text")


def reading(path: Path) -> str:
    """What a corpus's fingerprint says of a file beside its content: how it is read, where that has changed."""
    name = path.name
    as_ever = name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst", ".parquet"))
    plain = format_of(path) == "text" and not name.lower().endswith(COMPRESSED)
    return "" if as_ever or plain else f" {format_of(path)}"


def _suffix(path: Path) -> str:
    """The suffix in lower case, that of the compression taken off."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def find(name: str, source: str) -> Files:
    """The files of a path or pattern; a folder is searched with all its subfolders.

    Raises:
      CorpusError: there are none, or some in a format that is not read.
    """
    root = local(source, f"corpus {name!r}:").expanduser()
    if root.is_file():
        files = Files(root, [root], {})
    elif root.is_dir():
        files = _in_folder(name, root)
    elif glob.has_magic(source):
        pattern = root
        while glob.has_magic(str(root)):
            root = root.parent
        matches = [path for path in root.glob(str(pattern.relative_to(root))) if path.is_file()]
        files = Files(root, sorted(path for path in matches if not _hidden(path, root)), {})
        if not files.paths:
            raise CorpusError(f"corpus {name!r}: {source}: the pattern matches no files")
    else:
        raise CorpusError(
            f"corpus {name!r}: {root}: no such file or folder; give recipe:NAME, tfds:NAME, a folder of files, a "
            f"pattern such as 'folder/**/*.txt', or a file of text, {', '.join(_FORMATS)}"
        )
    for path in files.paths:
        _refuse_unread(name, path)
    return files


def in_words(left_out: Mapping[str, int]) -> str:
    """Names and counts, the most frequent first."""
    said = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    more = [f"{len(said) - 5} other names"] if len(said) > 5 else []
    return ", ".join([name if count == 1 else f"{count} {name}" for name, count in said[:5]] + more)


def _in_folder(name: str, root: Path) -> Files:
    paths: list[Path] = []
    left_out: Counter[str] = Counter()
    for path in sorted(root.rglob("*")):
        if not path.is_file():
            continue
        if _hidden(path, root):
            left_out["hidden files"] += 1
        elif _ABOUT.fullmatch(path.name):
            left_out[path.name] += 1
        else:
            paths.append(path)
    if not paths:
        only = f" but {in_words(left_out)}; name such files by a pattern to read them" if left_out else ""
        raise CorpusError(f"corpus {name!r}: {root}: the folder holds no files{only}")
    suffixes = {_suffix(path) for path in paths}
    markup = next((path for path in paths if _suffix(path) in _MARKUP), None)
    if markup is not None and len(suffixes) > 1:
        raise CorpusError(
            f"corpus {name!r}: {markup}: markup ({_suffix(markup)}) beside other files is hardly text to train on; "
            f"move it out, or name the files to read by a pattern, such as '{root}/**/*.txt'"
        )
    return Files(root, paths, left_out)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _refuse_unread(name: str, path: Path) -> None:
    if (suffix := _suffix(path)) in _UNREAD:
        raise CorpusError(
            f"corpus {name!r}: {path}: {suffix} files are not read; convert it to JSON lines or Parquet, or name the "
            f"files to read by a pattern, such as '{path.parent}/*.txt'"
        )
    if format_of(path) == "parquet" and path.name.lower().endswith(COMPRESSED):
        raise CorpusError(f"corpus {name!r}: {path}: Parquet is compressed inside the file; unpack this one")
