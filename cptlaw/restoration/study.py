"""A restoration study on one machine: every arm and seed is trained, tested and kept; the runs table is made of them.

    WORKDIR/config.json                     the study, which a workdir has one of
    WORKDIR/runs/ARM-SEED/                  checkpoints while it trains, then pretrained/ (weights), finished.json
    WORKDIR/runs/ARM-SEED/PHASE/metrics.jsonl, tests.jsonl     what training and testing measured
    WORKDIR/runs.csv, differences.csv, report.html

A run that is finished is not trained again, and one that was stopped goes on.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from cptlaw import atomic, fields, records, runs
from cptlaw.errors import UserError
from cptlaw.restoration import networks, probe, training
from cptlaw.restoration.batches import Crops, Patches, Pictures, patches
from cptlaw.restoration.networks import Params
from cptlaw.restoration.quality import psnr, ssim
from cptlaw.restoration.settings import PRETRAINED, Study
from cptlaw.restoration.training import Phase
from cptlaw.training import loop, writers
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.metrics import Point

OVERALL = "all"


class Stopped(Exception):
    """Training was asked to stop; the same command goes on from there."""


class Bench:
    """A study with its images read, degraded when asked for, and its test patches."""

    def __init__(self, study: Study):
        """Raises UserError for images that are missing or too small."""
        self.study, self.pair = study, study.pair
        train, held_out = study.images.split(study.images.read())
        self.train = Pictures(train, study.kinds, study.data_seed, study.draws)
        # Other seeds than those of training images, which have the same indices.
        held = Pictures(held_out, study.kinds, study.data_seed + 1, study.draws)
        self._big_enough(held)
        self.test = patches(held, study.test.patch, study.test.each, study.data_seed)
        self.probed = _both(
            patches(self.train, study.test.patch, study.test.probe, study.data_seed),
            patches(held, study.test.patch, study.test.probe, study.data_seed),
        )
        self.names = {"trained on": [p.name for p in train], "held out": [p.name for p in held_out]}

    def _big_enough(self, held: Pictures) -> None:
        for picture in (*held.pictures, *self.train.pictures):
            if min(picture.clean.shape[:2]) < self.study.test.patch:
                raise UserError(
                    f"config.test.patch {self.study.test.patch}: larger than {picture.name}, of "
                    f"{picture.clean.shape[:2]} pixels"
                )

    def crops(self, phase: Phase, seed: int, arm: str) -> Crops:
        """The batches of a phase; arms of one seed see the same crops."""
        stream = 2 * seed + (phase.kind == "fine_tune")
        return Crops(self.train, phase.batch_size, phase.crop, stream, arm == "shuffled" and phase.kind == "dcpt")

    def psnr(self, network: Params) -> np.ndarray:
        """Of every test patch (N,)."""
        restored = training.restored(self.pair, network, self.test.degraded)
        return np.array([psnr(x, y) for x, y in zip(restored, self.test.clean)])

    def ssim(self, network: Params) -> np.ndarray:
        """Of every test patch (N,)."""
        restored = training.restored(self.pair, network, self.test.degraded)
        return np.array([ssim(x, y) for x, y in zip(restored, self.test.clean)])

    def by_kind(self, values: np.ndarray) -> dict[str, float]:
        """The mean over the patches of each type, and the mean of these."""
        means = {kind: float(values[self.test.labels == i].mean()) for i, kind in enumerate(self.study.kinds)}
        return {**means, OVERALL: float(np.mean(list(means.values())))}

    def classified(self, params: Params) -> float:
        """The share of test patches whose type the classifier names."""
        named = training.labels(self.pair, params, self.test.degraded)
        return float((named == self.test.labels).mean())

    def probe(self, network: Params) -> dict[str, float]:
        """The k-NN accuracy of the network's last features, beside its controls (`probe.table`)."""
        seen = {"network": training.last_features(self.pair, network, self.probed.degraded)}
        return probe.table(seen, self.probed.degraded, self.probed.labels, self.probed.images)


def _both(a: Patches, b: Patches) -> Patches:
    later = dataclasses.replace(b, images=b.images + a.images.max() + 1)
    return Patches(*(np.concatenate([getattr(a, f.name), getattr(later, f.name)]) for f in dataclasses.fields(Patches)))


@dataclasses.dataclass(frozen=True)
class Done:
    """A finished run.

    Attributes:
      tests: one a test: step, flops (with those of pre-training), lr, and PSNR by type.
      psnr, ssim: of every test patch at the end (N,).
      probe: k-NN accuracies at the start of fine-tuning. classified: of the classifier, where there is one.
      seconds: of training and testing, since the last start.
    """

    arm: str
    seed: int
    tests: list[dict[str, float]]
    psnr: np.ndarray
    ssim: np.ndarray
    probe: dict[str, float]
    classified: float | None
    seconds: float

    @property
    def id(self) -> str:
        return f"{self.arm}-{self.seed}"


def run(
    study: Study, workdir: Path, *, progress: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> tuple[Bench, list[Done]]:
    """Trains what is not finished, and writes the runs table. Raises UserError for a workdir of another study, and
    Stopped."""
    _claim(study, workdir)
    bench = Bench(study)
    # With a constant rate a short run is the beginning of a long one.
    prefix = study.fine_tune.decay == "constant" and {"scratch", "scratch_longer"} <= set(study.arms)
    asked = [(arm, seed) for seed in study.seeds for arm in study.arms if not (prefix and arm == "scratch")]
    done = []
    for arm, seed in tqdm(asked, disable=not progress, desc="runs"):
        done.append(_one(bench, workdir / "runs" / f"{arm}-{seed}", arm, seed, should_stop))
        if prefix and arm == "scratch_longer":
            done.append(_beginning(bench, done[-1], workdir))
    order = {arm: i for i, arm in enumerate(study.arms)}
    done.sort(key=lambda one: (order[one.arm], one.seed))
    runs.write(table(study, done), workdir / "runs.csv")
    return bench, done


def _claim(study: Study, workdir: Path) -> None:
    config, file = json.dumps(fields.plain(dataclasses.asdict(study)), indent=1), workdir / "config.json"
    if file.exists() and file.read_text() != config:
        raise UserError(f"{workdir}: holds the runs of another config; give another --workdir, or remove it")
    atomic.write_text(file, config)


def _one(bench: Bench, folder: Path, arm: str, seed: int, should_stop: Callable[[], bool]) -> Done:
    if (folder / "finished.json").exists():
        return read(folder)
    study, began = bench.study, time.monotonic()
    pretrain, fine_tune = study.phases(arm)
    spent, classified = 0.0, None
    params = training.init(study.pair, pretrain or fine_tune, seed)
    if pretrain is not None:
        if not (folder / "pretrained" / "model.safetensors").exists():
            result = _phase(bench, folder, pretrain, arm, seed, params, should_stop=should_stop)
            classified = bench.classified(result.params) if arm in ("dcpt", "shuffled") else None
            atomic.write_text(folder / "classified.json", json.dumps(classified))
            networks.save(folder / "pretrained", study.network, result.params["network"])
        classified = json.loads((folder / "classified.json").read_text())
        spent = study.flops(pretrain)
        params = {"network": networks.load(folder / "pretrained", study.network)}
    probed = bench.probe(params["network"])
    with writers.jsonl(folder / "tests.jsonl") as write:

        def test(point: Point, params: Params) -> None:
            if point.averaged != bool(fine_tune.ema):
                return
            values = bench.psnr(params["network"])
            if not np.isfinite(values).all():
                raise FloatingPointError(f"PSNR is no number at step {point.step}")
            write({"step": point.step, "flops": spent + point.flops, "lr": point.lr, **bench.by_kind(values)})
            if point.step in (study.fine_tune.steps, fine_tune.steps):
                structure = bench.ssim(params["network"])
                atomic.write_text(
                    folder / f"patches-{point.step}.json", json.dumps({"psnr": list(values), "ssim": list(structure)})
                )
                networks.save(folder / f"network-{point.step}", study.network, params["network"])

        _phase(bench, folder, fine_tune, arm, seed, params, evaluate=test, should_stop=should_stop)
    final = {"arm": arm, "seed": seed, "probe": probed, "classified": classified, "steps": fine_tune.steps}
    final["seconds"] = time.monotonic() - began
    atomic.write_text(folder / "finished.json", json.dumps(final))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return read(folder)


def read(folder: Path, steps: int | None = None) -> Done:
    """A finished run, or its first `steps` of fine-tuning. Raises UserError for one that is not whole."""
    try:
        final = json.loads((folder / "finished.json").read_text())
        steps = steps or final.pop("steps")
        last = json.loads((folder / f"patches-{steps}.json").read_text())
        kept = {name: final[name] for name in ("arm", "seed", "probe", "classified", "seconds")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: not readable as a finished run ({error}); remove the folder to train it again"
        ) from None
    tests = records.read_lines(folder / "tests.jsonl", {"step": int}, "remove the folder to train the run again")
    tests = [record for record in tests if record["step"] <= steps]
    return Done(tests=tests, psnr=np.array(last["psnr"]), ssim=np.array(last["ssim"]), **kept)


def _beginning(bench: Bench, longer: Done, workdir: Path) -> Done:
    """The scratch run, which the longer one begins with. Its seconds are the longer's in proportion."""
    steps = bench.study.fine_tune.steps
    short = read(workdir / "runs" / longer.id, steps)
    share = steps / longer.tests[-1]["step"]
    return dataclasses.replace(short, arm="scratch", seconds=share * longer.seconds)


def _phase(
    bench: Bench, folder: Path, phase: Phase, arm: str, seed: int, params: Params, *,
    evaluate: Callable[[Point, Params], None] = lambda point, params: None, should_stop: Callable[[], bool],
) -> loop.Result:  # fmt: skip
    study = bench.study
    every = study.fine_tune.steps // study.evaluations
    steps = {*range(0, phase.steps + 1, every), phase.steps} if phase.kind == "fine_tune" else ()
    with (
        writers.writers((), folder / phase.kind, arm, {}) as write,
        Checkpoints(folder / "checkpoints" / phase.kind) as checkpoints,
    ):
        result = training.train(
            bench.pair,
            phase,
            bench.crops(phase, seed, arm),
            params,
            checkpoints=checkpoints,
            evaluate=evaluate,
            log=lambda metrics: write(metrics.record()),
            eval_steps=steps,
            log_every=max(1, phase.steps // 50),
            should_stop=should_stop,
        )
    if result.status == loop.STOPPED:
        raise Stopped(f"{folder.name}: stopped at step {result.point.step} of its phase {phase.kind}")
    if result.status == loop.FAILED:
        where = "pretrain" if phase.kind in PRETRAINED.values() else "fine_tune"
        raise UserError(f"{folder.name}: {result.reason}; the rate is config.{where}.peak")
    return result


def table(study: Study, done: list[Done]) -> pd.DataFrame:
    """The runs table: a row for each test and type, and for the mean of the types (`all`).

    `loss` is 10^(-PSNR / 20), the root mean squared error that the mean PSNR stands for. `tokens` is compute: the
    pixels of fine-tuning that the run's FLOPs, those of its pre-training among them, would have paid for. `model` is
    the arm.
    """
    phase = study.fine_tune
    per_pixel = networks.flops(study.pair, phase.crop)["fine_tune"] / phase.crop**2
    shares = {f"w_{name_of(kind)}": 1 / len(study.kinds) for kind in study.kinds}
    common = {"params": networks.count_params(study.network), **shares}
    rows = [
        {
            "run": one.id, "model": one.arm, "seed": one.seed, "step": test["step"], "lr": test["lr"],
            "tokens": round(test["flops"] / per_pixel), "flops": test["flops"], "eval": name_of(kind),
            "loss": 10 ** (-test[kind] / 20), **common,
        }
        for one in done for test in one.tests for kind in (*study.kinds, OVERALL)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def name_of(kind: str) -> str:
    """A type as the name of a column: noise:1-50 -> noise_1_50."""
    return kind.replace(":", "_").replace("-", "_").replace("+", "_")
