"""A URL is never taken for a folder of the working directory, wherever a path may be given."""

from pathlib import Path

import pandas as pd
import pytest

from cptlaw import atomic, cache, cli, fitting, laws, paths, planning, records, runs, tables
from cptlaw.data import build, folders, store, subsets, vocabularies
from cptlaw.errors import UserError
from cptlaw.execution.workdir import Workdir
from cptlaw.models import hf, tensor_files
from cptlaw.scoring import chunks
from cptlaw.selection import scores
from cptlaw.training import checkpoints

URLS = ["gs://b/x.json", "s3://b/x", "az://b/x", "hdfs://name/x", "https://host/x", "GS://b/x", "s3a://b"]
FRAME = pd.DataFrame({"a": [1]})


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("through", [str, Path])
def test_urls_are_told_from_paths(url, through):
    with pytest.raises(UserError, match=rf"^--out {url.split(':')[0].lower()}://{url.split('/')[2]}.*: a URL"):
        paths.local(through(url), "--out")


def test_a_file_url_is_told_as_a_path():
    with pytest.raises(UserError, match="write it as a path, /home/me/x"):
        paths.local("file:///home/me/x")


@pytest.mark.parametrize(
    "path", ["runs/x", "/a/b:c", "C:/x", "c:\\x", "law.py:mine", "a/gs:/b", "~/x", ".", "tfds:c4/en"]
)
def test_paths_stay_paths(path):
    assert paths.local(path) == Path(path)


TAKES_A_PATH = {
    "atomic": lambda url: atomic.write_text(url, "x"),
    "check_place": lambda url: atomic.check_place(url, "--out"),
    "records": lambda url: records.write(url, {}),
    "records.read": lambda url: records.read(url, {}, ""),
    "records.read_lines": lambda url: records.read_lines(url, {}, ""),
    "runs.read": runs.read,
    "runs.read_columns": runs.read_columns,
    "runs.write": lambda url: runs.write(FRAME, f"{url}.csv"),
    "runs.append": lambda url: runs.append(f"{url}.jsonl", [{}]),
    "tables": tables.path,
    "Fit": fitting.Fit.load,
    "Decision": planning.Decision.load,
    "law": lambda url: laws.load(f"{url}.py:mine"),
    "weights": hf.read_config,
    "tensors": tensor_files.Safetensors,
    "corpus": lambda url: folders.find("x", url),
    "pattern": lambda url: folders.find("x", f"{url}/**/*.md"),
    "vocabulary": vocabularies.open_vocabulary,
    "load_vocabulary": build.load_vocabulary,
    "prepare": lambda url: build.prepare({}, {}, url, "cache", validation_share=0.1),
    "cache": lambda url: build.prepare({}, {}, "data", url, validation_share=0.1),
    "store": store.TokenStore.open,
    "store.Writer": lambda url: store.Writer(url, 256),
    "subset": subsets.read_list,
    "scores": scores.read,
    "score": lambda url: chunks.score(None, None, None, url, chunk=1, model={}),
    "checkpoints": lambda url: checkpoints.Checkpoints(url),
    "load_params": lambda url: checkpoints.load_params(url, {}),
}


@pytest.mark.parametrize("what", TAKES_A_PATH)
def test_whatever_takes_a_path_refuses_a_url_it_cannot_read(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"az://bucket/x.*: a URL, and only a path"):
        TAKES_A_PATH[what]("az://bucket/x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["az://b/x", "hdfs://b/x", "file:///x"])
def test_a_workdir_that_no_storage_serves_is_refused(url):
    with pytest.raises(UserError, match=f"workdir {url}.*a URL"):
        Workdir(url)


def test_the_cache_is_on_this_machine(monkeypatch):
    monkeypatch.setenv("CPTLAW_CACHE", "gs://bucket/cache")
    with pytest.raises(UserError, match="CPTLAW_CACHE gs://bucket/cache: a URL"):
        cache.directory()


@pytest.mark.parametrize(
    "words, named",
    [
        (["fit", "gs://b/x.csv", "--eval", "code"], "table gs://b/x.csv"),
        (["fit", "x.csv", "--eval", "code", "--out", "gs://b/fit.json"], "out gs://b/fit.json"),
        (
            [
                "plan",
                "trade-off",
                "--general",
                "s3://b/d.json",
                "--domain",
                "s3://b/d.json",
                "--params",
                "1e9",
                "--tokens",
                "1e9",
            ],
            "s3://b/d.json",
        ),
        (["report", "t.csv", "--fits", "a.json", "s3://b/f.json"], "fits s3://b/f.json"),
    ],
)
def test_a_command_names_the_argument(words, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert f"{named}: a URL" in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())
