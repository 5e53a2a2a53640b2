"""Reads a study's config, and names the field that cannot be.

Configs are `ml_collections` ConfigDicts (`configs/*.py`), because command lines override those. Here they become the
frozen dataclasses of `settings`, so that a misspelt field is an error and not a silent default. Types and ranges are
checked first, then how the fields fit together. No corpus is read: `inputs` looks at what lies outside the config.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from cptlaw import fields, laws
from cptlaw.data.corpora import Spec
from cptlaw.errors import UserError, did_you_mean
from cptlaw.execution.run import Phase
from cptlaw.fields import ConfigError
from cptlaw.fitting.result import AUTO
from cptlaw.models import transformer
from cptlaw.models.config import COMPUTATION
from cptlaw.models.sharding import AXES
from cptlaw.schedules import KINDS
from cptlaw.studies.settings import SUMS, SizeGrid, Study
from cptlaw.training.optimizers import OPTIMIZERS
from cptlaw.training.step import Optimizer


def parse(config: Mapping[str, Any]) -> Study:
    """Checks a config (ConfigDict or dict) and returns it as a `Study`. Raises ConfigError naming the field."""
    study = _pinned(fields.build(Study, plain(config), "config"))
    _check_corpora(study)
    _check_sizes(study)
    for size in study.sizes:
        check_model(study, size)
    _check_optimizer(study)
    _check_tokens(study)
    for part in study.grid:
        _check_part(study, part)
    _check_devices(study)
    study.question.check(study)
    _check_cross_domain(study)
    _check_law(study)
    return study


def _pinned(study: Study) -> Study:
    """The study with the digests of the user's files that its runs depend on. This runs the files.

    So a run remembers which content it was trained by, and a worker refuses another.
    """
    phases = {name: phase for name in ("base", "cpt") if (phase := getattr(study, name)) is not None}
    for name, phase in phases.items():
        with fields.in_field(f"config.{name}.schedule"):
            phases[name] = dataclasses.replace(phase, schedule=KINDS.pinned(phase.schedule))
    optimizer = study.optimizer
    if isinstance(kind := optimizer.get("kind"), str):
        with fields.in_field("config.optimizer.kind"):
            optimizer = {**optimizer, "kind": OPTIMIZERS.pinned(kind)}
    return dataclasses.replace(study, optimizer=optimizer, **phases)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a dictionary of plain values. Raises ConfigError for anything else."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(values, Mapping):
        raise ConfigError("config", f"expected a ConfigDict or a dictionary, got {values!r}")
    return dict(values)


def check_model(study: Study, size: str) -> None:
    """Raises ConfigError when the fields of one size make no model."""
    given, own = study.model_fields(size), study.sizes[size]

    def where(field: str) -> str:
        return f"config.sizes.{size}.{field}" if field in own else f"config.model.{field}"

    for field in dataclasses.fields(transformer.Config):
        if field.default is dataclasses.MISSING and field.name not in (*given, "vocab_size"):
            raise ConfigError(where(field.name), f"missing; the model of size {size!r} needs it")
    try:
        transformer.Config(**given, vocab_size=1)
    except ConfigError as error:
        name = error.field.removeprefix("model.")
        raise ConfigError(where(name), f"{error.said} (in the model of size {size!r})") from None


def _check_corpora(study: Study) -> None:
    for name, value in study.corpora.items():
        path = f"config.corpora.{name}"
        if not name.isidentifier() or name == "vocabulary":
            raise ConfigError(path, "a corpus's name has letters, digits and underscores ('vocabulary' is taken)")
        if isinstance(value, Spec):
            continue
        if not isinstance(value, str | Mapping):
            raise ConfigError(path, f"expected a source or the fields of one, got {value!r}")
        given = {"source": value} if isinstance(value, str) else value
        fields.check_some(Spec, given, path)
        if "source" not in given:
            raise ConfigError(f"{path}.source", "missing; give recipe:NAME, tfds:NAME, a file or a folder")
    listed = {"general": (study.general,), "domains": study.domains, "evaluated": study.evaluated}
    for field, names in listed.items():
        for name in names:
            _known(f"config.{field}", name, study.corpora, "corpus", "config.corpora")
    if study.general in study.domains or not study.domains:
        raise ConfigError("config.domains", "name at least one corpus that is not the general one")
    for field in ("domains", "evaluated"):
        if len(set(listed[field])) < len(listed[field]):
            raise ConfigError(f"config.{field}", f"each corpus once, not {', '.join(listed[field])}")
    if trained := [name for name in study.evaluated if name in (study.general, *study.domains)]:
        raise ConfigError("config.evaluated", f"{trained[0]} is trained on, and so evaluated already; leave it out")


def _check_sizes(study: Study) -> None:
    for size in study.sizes:
        if not re.fullmatch(r"\w[\w.-]*", size):
            raise ConfigError(
                f"config.sizes.{size}",
                "a size's name has letters, digits, '_', '-' and '.': it is part of folders' names",
            )
    for part in study.first:
        _known("config.first", part, study.grid, "part", "config.grid")
    parts = study.grid_sizes()
    for part, size in parts.items():
        if size not in study.sizes:
            raise _no_size(study, f"config.grid.{part}" + (".size" if study.grid[part].size else ""), size)
    for size in study.init_from:
        if size not in study.sizes:
            raise _no_size(study, f"config.init_from.{size}", size)
    fields.check_some(transformer.Config, study.model, "config.model", but=("vocab_size",))
    for size, own in study.sizes.items():
        fields.check_some(transformer.Config, own, f"config.sizes.{size}", but=("vocab_size",))
        decided = [name for name in own if name not in COMPUTATION]
        if size in study.init_from and decided:
            raise ConfigError(
                f"config.sizes.{size}.{decided[0]}", "the folder in config.init_from decides it; remove one of them"
            )
    if study.base is None and (scratch := [size for size in parts.values() if size not in study.init_from]):
        raise ConfigError("config.base", f"missing; {', '.join(scratch)} need it, being in no config.init_from")
    for domain in study.base_shares:
        _known(f"config.base_shares.{domain}", domain, study.domains, "domain", "config.domains")
    if (total := sum(study.base_shares.values())) > 1 + SUMS:
        raise ConfigError("config.base_shares", f"they sum to {total:.6g}, more than 1")
    for part, grid in study.grid.items():
        if grid.base_seeds and parts[part] in study.init_from:
            raise ConfigError(f"config.grid.{part}.base_seeds", "weights from config.init_from have no seed; remove it")
    if study.held_out.size not in parts.values():
        raise ConfigError("config.held_out.size", f"{study.held_out.size!r} is not in config.grid")
    if not any(grid.trains for part, grid in study.grid.items() if parts[part] == study.held_out.size):
        raise ConfigError(f"config.grid.{study.held_out.size}.domain_shares", "the held-out size needs runs")
    for part, grid in study.grid.items():
        _check_mixes(study, part, grid)


def _check_mixes(study: Study, part: str, grid: SizeGrid) -> None:
    for i, mix in enumerate(grid.mixes):
        for name in mix:
            if name not in (study.general, *study.domains):
                raise fields.unknown(f"config.grid.{part}.mixes[{i}]", name, (study.general, *study.domains), "corpus")
    try:
        grid.cells(study.general, study.domains, study.seed)
    except ConfigError as error:
        raise ConfigError(f"config.grid.{part}.{error.field}", error.said) from None


def _check_optimizer(study: Study) -> None:
    given = {name: value for name, value in study.optimizer.items() if name != "mup_base"}
    fields.check_some(Optimizer, given, "config.optimizer")
    base = study.optimizer.get("mup_base")
    if base not in (None, *study.sizes):
        raise ConfigError(
            "config.optimizer.mup_base",
            f"the size whose learning rate it is, one of {', '.join(study.sizes)}, not {base!r}",
        )
    model = study.model_fields(base) if base else {}
    if scaled := [name for name in ("scale_embeddings", "query_pre_attn_scalar") if model.get(name)]:
        raise ConfigError(
            "config.optimizer.mup_base",
            f"muP's rules are not for a model with {' and '.join(scaled)}; remove it, or leave these at their default",
        )
    width = None if base is None else transformer.Config(**study.model_fields(base), vocab_size=1)
    try:
        Optimizer(**given, mup_base=width)
    except ConfigError as error:
        raise error.moved("config.optimizer") from None
    if study.fit.weights == "average" and not given.get("ema"):
        raise ConfigError("config.fit.weights", "average needs config.optimizer.ema, the decay of the average")


def _check_tokens(study: Study) -> None:
    """Steps, evaluations and learning-rate schedules."""
    if not study.eval_tokens or any(a >= b for a, b in zip(study.eval_tokens, study.eval_tokens[1:])):
        raise ConfigError("config.eval_tokens", "give increasing token counts, at least one")
    per_step = study.tokens_per_step()
    for field, tokens in [
        *([("base.tokens", study.base.tokens)] if study.base else []),
        ("cpt.tokens", study.cpt.tokens),
        *(("eval_tokens", t) for t in study.eval_tokens),
    ]:
        if tokens % per_step or tokens <= 0:
            near = max(per_step, round(tokens / per_step) * per_step)
            raise ConfigError(
                f"config.{field}",
                f"{tokens} is not a whole number of steps of {per_step} tokens (batch_size x seq_len); the nearest is "
                f"{near}",
            )
    if study.eval_tokens[-1] != study.cpt.tokens:
        raise ConfigError(
            "config.eval_tokens",
            f"the last, {study.eval_tokens[-1]}, must be config.cpt.tokens, {study.cpt.tokens}",
        )
    if study.base:
        for field in ("branch_cooldown", "keep_optimizer"):
            if getattr(study.base, field):
                raise ConfigError(f"config.base.{field}", "belongs to config.cpt")
        _check_schedule(study, "config.base", study.base)
    if not study.cpt.branch_cooldown:
        _check_schedule(study, "config.cpt", study.cpt)
        return
    if study.cpt.schedule not in ("constant", "infinite") or study.cpt.cooldown_tokens:
        raise ConfigError(
            "config.cpt.branch_cooldown",
            "branches cool down from a constant or infinite schedule without a cool-down, "
            f"not from {study.cpt.schedule} with {study.cpt.cooldown_tokens} cooldown_tokens",
        )
    for phase in (study.trunk(), *study.branches().values()):
        _check_schedule(study, "config.cpt", phase)


def _check_part(study: Study, part: str) -> None:
    """What a part of the grid says in place of the study."""
    grid = study.grid[part]
    for domain in grid.domains:
        _known(f"config.grid.{part}.domains", domain, study.domains, "domain", "config.domains")
    if grid.eval_tokens or grid.branch_cooldown is not None:
        try:
            _check_tokens(study.of_part(part))
        except ConfigError as error:
            raise ConfigError(f"config.grid.{part}", f"with it, {error}") from None


def _check_schedule(study: Study, path: str, phase: Phase) -> None:
    try:
        phase.in_steps(study.tokens_per_step())
    except ConfigError as error:
        raise error.moved(path) from None


def _check_devices(study: Study) -> None:
    if study.microbatches and study.batch_size % study.microbatches:
        raise ConfigError(
            "config.microbatches", f"{study.microbatches} does not divide config.batch_size, {study.batch_size}"
        )
    for axis, size in study.mesh.items():
        if axis not in AXES:
            raise ConfigError(f"config.mesh.{axis}", "no such axis; data, fsdp and tensor are the mesh's axes")
        if size < 1 and size != -1:
            raise ConfigError(f"config.mesh.{axis}", f"a number of devices, or -1 for the rest, not {size}")
    if list(study.mesh.values()).count(-1) > 1:
        raise ConfigError("config.mesh", "only one axis may be -1, the rest of the devices")
    split = math.prod(size for axis, size in study.mesh.items() if axis in ("data", "fsdp") and size > 0)
    for field in ("batch_size", "eval_batch_size"):
        if getattr(study, field) % split:
            raise ConfigError(
                f"config.{field}",
                f"{getattr(study, field)} sequences cannot be divided over the {split} devices that config.mesh splits "
                "a batch over (data x fsdp)",
            )


def _check_cross_domain(study: Study) -> None:
    asked = study.cross_domain
    if asked is None:
        return
    where = "config.cross_domain"
    known = set(study.eval_tokens)
    tokens = asked.probe_tokens
    if len(tokens) not in (2, 3) or list(tokens) != sorted(set(tokens)) or not set(tokens) <= known:
        raise ConfigError(
            f"{where}.probe_tokens",
            f"must be two or three of eval_tokens, rising ({', '.join(map(str, study.eval_tokens))}), not {tokens}",
        )
    if asked.probe_size and asked.probe_size not in study.sizes:
        raise ConfigError(f"{where}.probe_size", f"no size {asked.probe_size!r}; there are {', '.join(study.sizes)}")
    if len(study.domains) < asked.leave_out + 3:
        raise ConfigError(
            f"{where}.leave_out",
            f"{asked.leave_out} of {len(study.domains)} domains: at least three others must be fitted",
        )


def _check_law(study: Study) -> None:
    if study.fit.law == AUTO:  # one of laws that can answer
        return
    for part in study.question.parts(study):
        try:
            law = laws.for_table(study.fit.law, pd.DataFrame(columns=[f"w_{name}" for name in part.mixed]))
        except UserError as error:
            raise ConfigError("config.fit.law", str(error)) from error
        shares = {"ratio", *(f"w_{name}" for name in part.mixed)}
        if unknown := set(law.columns) - shares - {"params", "tokens"}:
            raise ConfigError(
                "config.fit.law",
                f"{study.fit.law} reads {', '.join(sorted(unknown))}; a study's question is answered by a law of "
                "params, tokens and the domain share, such as dcpt",
            )
        if not shares & set(law.columns):
            raise ConfigError(
                "config.fit.law", f"{study.fit.law} does not read the domain share, so no share follows from it"
            )
        if missing := [name for name in study.question.reads if name not in law.columns]:
            raise ConfigError(
                "config.fit.law", f"{study.fit.law} does not read {missing[0]}, which a {study.question.kind} question "
                "compares"
            )  # fmt: skip
        if study.evaluated and "ratio" in law.columns:
            raise ConfigError(
                "config.fit.law",
                f"{study.fit.law} reads the share of the corpus that is evaluated, and no run trains on "
                f"{', '.join(study.evaluated)}: take a law of the shares of all corpora (auto, additive, mixing), or "
                "leave them out of config.evaluated",
            )


def _no_size(study: Study, path: str, size: str) -> ConfigError:
    near = did_you_mean(size, study.sizes)
    return ConfigError(path, f"no such size; config.sizes has {', '.join(study.sizes)}" + (f"; {near}" if near else ""))


def _known(path: str, name: str, known: Iterable[str], what: str, where: str) -> None:
    if name not in known:
        near = did_you_mean(name, known)
        raise ConfigError(
            path, f"no {what} {name!r} in {where}, which has {', '.join(known)}" + (f"; {near}" if near else "")
        )
