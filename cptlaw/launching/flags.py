"""The launchers and their flags, as data: the `cptlaw` command and the absl programs of launch/ are made from them."""

import argparse
import ast
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cptlaw.errors import UserError

CONFIG, WORKDIR = "config", "workdir"


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a launcher.

    Attributes:
      name: without its dashes.
      help: what it is, without a full stop.
      kind: str, int, float; bool for a switch.
      choices: the values that it may have.
      many: whether it may be given several times.
      low, high: the smallest and largest number.
    """

    name: str
    help: str
    kind: type = str
    default: Any = None
    choices: tuple[str, ...] = ()
    many: bool = False
    low: float | None = None
    high: float | None = None


COMMON = (
    Flag(CONFIG, "a study's config, FILE.py or FILE.py:VARIANT; --config.FIELD=VALUE changes a field of it"),
    Flag(WORKDIR, "where the study is kept, such as runs/demo; also gs://... and s3://..."),
    Flag("update-config", "keep the runs of another config in the workdir, and train the rest", bool, False),
    Flag("multihost", "one of the processes of a job: JAX asks Slurm, Open MPI, Kubernetes or the TPU pod which", bool,
         False),
    Flag("coordinator", "HOST:PORT on the first process's host, where nothing says it"),
    Flag("processes", "with --coordinator: how many processes there are", int),
    Flag("process", "with --coordinator: which of them this is, from 0", int),
    Flag("join-seconds", "how long to wait for the job's other processes (default 300)", int, 300),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Program:
    """A launcher: `module` has `main(args)`.

    Attributes:
      about: one line.
      flags: those beside `COMMON`.
      multihost: whether several processes may run it together.
      required: the flags that it cannot do without.
    """

    name: str
    about: str
    flags: tuple[Flag, ...] = ()
    multihost: bool = True
    required: tuple[str, ...] = (CONFIG, WORKDIR)

    @property
    def module(self) -> Any:
        return importlib.import_module(f"cptlaw.launching.{self.name}")

    def doc(self) -> str:
        """The module's docstring, read without importing it, which takes seconds and the extra `train`."""
        spec = importlib.util.find_spec(f"cptlaw.launching.{self.name}")
        assert spec is not None and spec.origin is not None
        return ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or self.about

    def run(self, args: argparse.Namespace) -> int | None:
        need_training()
        from cptlaw.launching import jobs

        return jobs.start(self.module.main, args, multihost=self.multihost)


_SIZE = Flag("size", "a size of config.sizes; without it, config.model itself")

PROGRAMS = {
    program.name: program
    for program in (
        Program("prepare", "build a study's token stores, and nothing else, before accelerators are paid for", (
            Flag("runner", "an Apache Beam runner whose workers tokenise: DirectRunner, FlinkRunner, SparkRunner ..."),
            Flag("pipeline_options", "Beam's options for it, separated by commas: --name=value,...", default=""),
        ), multihost=False),
        Program("train", "train one run of a study: a base model, or one mix from it (its base first)", (
            _SIZE,
            Flag("share", "token share of a domain, NAME=SHARE; the rest is general; may be repeated", many=True),
            Flag("seed", "seed of the data order; without it, config.seed", int, low=0),
        )),
        Program("sweep", "train a study's grid and write its runs table", (
            Flag("retry-failed", "train failed runs again", bool, False),
            Flag("sweeps", "how many of these work on the workdir, so that none takes more than its part (default 1)",
                 int, 1, low=1),
            Flag("have", "a runs table, by file or by name (cpt8): do not train what it holds"),
        ), multihost=False),
        Program("score", "score a corpus of a study under one of its models: nats of every chunk", (
            Flag("corpus", "which corpus of the config"),
            Flag("split", "which part of it (default train)", default="train", choices=("train", "validation")),
            Flag("size", "score under the base model of this size of config.sizes"),
            Flag("run", "score under this run of the workdir, whose checkpoint must have been kept"),
            Flag("chunk", "tokens of a chunk; without it, config.seq_len", int, low=1),
            Flag("batch_tokens", "positions of a batch (default 16384)", int, 16_384, low=1),
            Flag("out", "where the scores go; without it, a folder in WORKDIR/scores"),
        ), required=(CONFIG, WORKDIR, "corpus")),
        Program("checks", "check devices, memory, network, the workdir's disk and locks, and clocks", (
            Flag("devices", "how many devices there must be, over all processes", int),
            Flag("expect-processes", "how many processes there must be", int),
            Flag("platform", "what the devices must be", choices=("cpu", "gpu", "tpu")),
            Flag("megabytes", "size of the all-reduce, on each device (default 256)", float, 256.0),
            Flag("min-gbps", "least bandwidth of the all-reduce, GB/s a device", float, 0.0),
            Flag("disk-gb", "least free space in the workdir (default 10)", float, 10.0),
            Flag("overlap", "also compare validation with training text, of the corpora prepared there", bool, False),
            Flag("most-overlap", "most of a validation split that its training text may hold (default 1: any)", float,
                 1.0, low=0, high=1),
            Flag("timeout", "seconds after which a check that hangs ends the process (default 300)", int, 300),
        ), required=(WORKDIR,)),
        Program("footprint", "print what a study needs: memory of each size on a device, disk, FLOPs, hours", (
            Flag("devices", "how many devices a run has (default 1)", int, 1, low=1),
            Flag("platform", "what they are (default gpu)", default="gpu", choices=("gpu", "tpu")),
            Flag("topology", "a TPU slice, such as v5e:8x8, to compile for; needs libtpu"),
            Flag("compile", "compile for the devices that are here", bool, False),
            Flag("gib", "memory of a device; what does not fit is an error", float, 0.0, low=0),
            Flag("tflops", "peak of a device, bfloat16 (H100 989, v5e 197, v5p 459; default 989)", float, 989.0),
            Flag("mfu", "share of the peak that training reaches (default 0.4)", float, 0.4, low=1e-9, high=1),
        ), multihost=False, required=(CONFIG,)),
    )
}  # fmt: skip


def need_training() -> None:
    """Says what to install, where the extra `train` is missing."""
    for package in ("flax", "orbax.checkpoint", "seqio"):
        try:
            found = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:  # the parent of a dotted name
            found = False
        if not found:
            raise UserError(f"{package} is not installed; training needs the extra: pip install 'cptlaw[train]'")


def add_to(parser: argparse.ArgumentParser, program: Program, number: Callable[[str], float] = float) -> None:
    """Adds a program's flags, the required ones first and by themselves.

    Args:
      number: reads the numbers of the command line.
    """
    needed = parser.add_argument_group("required flags")
    for flag in (*program.flags, *COMMON):
        group = needed if flag.name in program.required else parser
        options: dict[str, Any] = {"help": flag.help.replace("%", "%%"), "default": flag.default}
        if flag.kind is bool:
            options["action"] = "store_true"
        else:
            options |= {"type": _reader(flag, number), "required": flag.name in program.required}
            if flag.choices:
                options["choices"] = flag.choices
            else:
                options["metavar"] = {int: "N", float: "X"}.get(flag.kind, flag.name.upper().replace("-", "_"))
            if flag.many:
                options |= {"action": "append", "default": []}
        group.add_argument(f"--{flag.name}", **options)
    parser.set_defaults(overrides=[])


def _reader(flag: Flag, number: Callable[[str], float]) -> Callable[[str], Any]:
    """Reads and checks a flag's value; for argparse."""
    if flag.kind is str:
        return str

    def read(text: str) -> Any:
        value = number(text)
        if flag.kind is int and value != int(value):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
        if (flag.low is not None and value < flag.low) or (flag.high is not None and value > flag.high):
            most = "" if flag.high is None else f" and at most {flag.high:g}"
            raise argparse.ArgumentTypeError(f"{text} must be at least {flag.low:g}{most}")
        return flag.kind(value)

    return read
