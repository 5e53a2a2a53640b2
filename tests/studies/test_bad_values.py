"""Every field of a study has a range, and a value outside it is an error that names the field, before any work."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from cptlaw.errors import UserError
from cptlaw.execution.run import Monitor, Phase
from cptlaw.execution.workdir import Workdir
from cptlaw.fields import ConfigError
from cptlaw.models.config import Config
from cptlaw.studies import config as config_lib
from cptlaw.studies import inputs, prepared
from cptlaw.studies.designs import Simplex
from cptlaw.studies.questions import Budget, LimitedData, Mixture, ShareForLoss, TradeOff
from cptlaw.studies.settings import SizeGrid, Study
from cptlaw.training.guard import Spike
from cptlaw.training.step import Optimizer

NAN, INF = math.nan, math.inf
BRANCHED = {"cpt__branch_cooldown": 0.5}


def code(**spec):
    return {"corpora": {"prose": "a", "code": spec}}


def small(**grid):
    return {"grid__small": {"domain_shares": (0.5,), **grid}}


def simplex(**design):
    return small(simplex={"count": 2, **design})


def question(kind, **given):
    return {"question": {"kind": kind, **given}}


LAW = {"corpora": {"prose": "a", "code": "b", "law": "c"}}

# (changes of the tiny config, the field that the error names, what else it says)
BAD = [
    # Study
    ({"name": ""}, "name", "must not be empty"),
    ({"name": 3}, "name", "expected str"),
    ({"corpora": {}}, "corpora", "must not be empty"),
    ({"corpora": {"prose": "a", "the code": "b"}}, "corpora.the code", "letters, digits and underscores"),
    ({"corpora": {"prose": "a", "vocabulary": "b"}}, "corpora.vocabulary", "is taken"),
    ({"corpora": {"prose": "a", "code": 3}}, "corpora.code", "expected a source"),
    ({"corpora": {"prose": "a", "code": ""}}, "corpora.code.source", "must not be empty"),
    (code(max_bytes=3), "corpora.code.source", "missing; give recipe:NAME"),
    (code(source=3), "corpora.code.source", "expected str"),
    (code(source="b", max_bytes="1GB"), "corpora.code.max_bytes", "expected int"),
    (code(source="b", max_bytes=True), "corpora.code.max_bytes", "expected int"),
    (code(source="b", validation_bytes=0), "corpora.code.validation_bytes", "at least 1"),
    (code(source="b", text_field=None), "corpora.code.text_field", "expected str"),
    (code(source="b", text_feild="c"), "corpora.code.text_feild", "did you mean 'text_field'"),
    ({"general": "pros"}, "general", "no corpus 'pros' .* did you mean 'prose'"),
    ({"domains": ()}, "domains", "at least one corpus"),
    ({"domains": ("code", "code")}, "domains", "each corpus once"),
    ({"domains": "code"}, "domains", "expected a list"),
    ({"sizes": {}}, "sizes", "must not be empty"),
    ({"sizes": {"small": {}, "large": {}, "a/b": {}}}, "sizes.a/b", "part of folders' names"),
    ({"eval_tokens": ()}, "eval_tokens", "at least one"),
    ({"eval_tokens": (128, 128, 256)}, "eval_tokens", "increasing"),
    ({"eval_tokens": (-64, 256)}, "eval_tokens", "not a whole number of steps"),
    ({"seq_len": 0}, "seq_len", "at least 1"),
    ({"seq_len": 8.5}, "seq_len", "expected int"),
    ({"base_shares": {"code": 1.5}}, "base_shares.code", "a share lies"),
    ({"base_shares": {"prose": 0.1}}, "base_shares.prose", "no domain"),
    ({"batch_size": -8}, "batch_size", "at least 1"),
    ({"eval_batch_size": 0}, "eval_batch_size", "at least 1"),
    ({"seed": -1}, "seed", "between 0 and 2147483646"),
    ({"seed": 2**31}, "seed", "between 0 and 2147483646"),
    ({"seed": "0"}, "seed", "expected int"),
    ({"validation_share": 2}, "validation_share", "above 0 and below 1"),
    ({"validation_share": 0}, "validation_share", "such as 0.05"),
    ({"validation_share": NAN}, "validation_share", "not nan"),
    ({"eval_max_tokens": 0}, "eval_max_tokens", "at least 1"),
    ({"microbatches": -1}, "microbatches", "at least 0"),
    ({"microbatches": 3}, "microbatches", "does not divide config.batch_size, 8"),
    ({"mesh": {"data": 0}}, "mesh.data", "or -1 for the rest, not 0"),
    ({"mesh": {"fsdp": -2}}, "mesh.fsdp", "or -1 for the rest"),
    ({"mesh": {"data": -1, "fsdp": -1}}, "mesh", "only one axis may be -1"),
    ({"mesh": {"data": "all"}}, "mesh.data", "expected int"),
    ({"mesh": {"data": 2, "fsdp": 8}}, "batch_size", "over the 16 devices"),
    ({"mesh": {"data": -1, "fsdp": 3}}, "batch_size", "over the 3 devices"),
    ({"mesh": {"fsdp": 8}, "eval_batch_size": 12}, "eval_batch_size", "over the 8 devices"),
    ({"init_from": {"small": ""}}, "init_from.small", "must not be empty"),
    ({"init_from": {"smal": "x"}}, "init_from.smal", "did you mean 'small'"),
    ({"init_from": {"small": "no/such/folder"}}, "init_from.small", "name a folder as downloaded"),
    ({"init_from": {"small": "no/such.gguf"}}, "init_from.small", "no such file; name a GGUF file on this machine"),
    ({"evaluate": "onw"}, "evaluate", "did you mean 'own'"),
    ({"first": ("smal",)}, "first", "no part 'smal' .* did you mean 'small'"),
    ({"first": "small"}, "first", "expected a list"),
    ({"workers": -3}, "workers", "at least 0"),
    ({"workers": 2.5}, "workers", "expected int"),
    ({"devices_per_run": -1}, "devices_per_run", "at least 0"),
    ({"together": -1}, "together", "at least 0"),
    ({"checkpoint_seconds": -1}, "checkpoint_seconds", "at least 0"),
    ({"checkpoint_seconds": NAN}, "checkpoint_seconds", "not nan"),
    ({"checkpoint_seconds": INF}, "checkpoint_seconds", "not inf"),
    # Phase, in both places
    ({"cpt__schedule": "cosin"}, "cpt.schedule", "did you mean 'cosine'"),
    ({"cpt__peak_lr": 0}, "cpt.peak_lr", "above 0"),
    ({"cpt__peak_lr": NAN}, "cpt.peak_lr", "not nan"),
    ({"cpt__peak_lr": INF}, "cpt.peak_lr", "not inf"),
    ({"base__peak_lr": -1e-3}, "base.peak_lr", "such as 3e-4"),
    ({"base__peak_lr": "3e-4"}, "base.peak_lr", "expected float"),
    ({"base__tokens": 0}, "base.tokens", "at least 1"),
    ({"base__tokens": 65}, "base.tokens", "not a whole number of steps"),
    ({"cpt__warmup_tokens": -64}, "cpt.warmup_tokens", "at least 0"),
    ({"cpt__warmup_tokens": 320}, "cpt.warmup_tokens", "do not fit into 4 steps"),
    ({"base__warmup_tokens": 10**6}, "base.warmup_tokens", "do not fit into 4 steps"),
    ({"cpt__schedule": "wsd"}, "cpt.cooldown_tokens", "wsd needs cool-down steps"),
    ({"cpt__schedule": "wsd", "cpt__cooldown_tokens": 512}, "cpt.cooldown_tokens", "do not fit"),
    ({"cpt__cooldown_tokens": 64}, "cpt.cooldown_tokens", "belong to wsd and infinite, not to constant"),
    ({"cpt__cooldown_tokens": -64}, "cpt.cooldown_tokens", "at least 0"),
    ({"cpt__cooldown_shape": "sqr"}, "cpt.cooldown_shape", "did you mean 'sqrt'"),
    ({"cpt__final_lr": -1e-4}, "cpt.final_lr", "at least 0"),
    ({"cpt__final_lr": NAN}, "cpt.final_lr", "not nan"),
    ({"cpt__stable_lr": 1e-3}, "cpt.stable_lr", "belongs to infinite"),
    ({"cpt__schedule": "infinite"}, "cpt.stable_lr", "infinite needs one"),
    ({"cpt__decay_tokens": 64}, "cpt.decay_tokens", "belong to infinite"),
    ({"cpt__cycles": 0}, "cpt.cycles", "at least 1"),
    ({"cpt__cycles": 2}, "cpt.cycles", "belong to cyclic"),
    ({"cpt__schedule": "cyclic", "cpt__cycles": 9}, "cpt.warmup_tokens", "1 x 9"),
    ({"cpt__branch_cooldown": 1}, "cpt.branch_cooldown", "at least 0 and below 1"),
    ({"cpt__branch_cooldown": -0.1}, "cpt.branch_cooldown", "a share of the tokens"),
    ({**BRANCHED, "cpt__warmup_tokens": 192}, "cpt.warmup_tokens", "do not fit into 2 steps"),
    ({**BRANCHED, "eval_tokens": (64, 256)}, "eval_tokens", "too few for a trunk and a cool-down"),
    ({"cpt__keep_optimizer": "yes"}, "cpt.keep_optimizer", "expected bool"),
    ({"base__keep_optimizer": True}, "base.keep_optimizer", "belongs to config.cpt"),
    ({"base": None}, "base", "missing; .*small.* need it"),
    # Monitor and Spike
    ({"monitor": {"log_steps": 0}}, "monitor.log_steps", "at least 1"),
    ({"monitor": {"writers": ("tensorbord",)}}, "monitor.writers", "did you mean 'tensorboard'"),
    ({"monitor": {"stall_seconds": -1}}, "monitor.stall_seconds", "at least 0"),
    ({"monitor": {"stall_seconds": INF}}, "monitor.stall_seconds", "not inf"),
    ({"monitor": {"profile_steps": (20, 10)}}, "monitor.profile_steps", "comes after the last"),
    ({"monitor": {"profile_steps": (-1, 10)}}, "monitor.profile_steps", "at least 0"),
    ({"monitor": {"profile_steps": (5,)}}, "monitor.profile_steps", "expected 2 entries"),
    ({"monitor": {"spike": {"deviations": 0}}}, "monitor.spike.deviations", "above 0"),
    ({"monitor": {"spike": {"deviations": NAN}}}, "monitor.spike.deviations", "not nan"),
    ({"monitor": {"spike": {"patience": 0}}}, "monitor.spike.patience", "at least 1"),
    ({"monitor": {"spike": {"window": 1}}}, "monitor.spike.window", "at least 2"),
    ({"monitor": {"spike": {"widow": 9}}}, "monitor.spike.widow", "did you mean 'window'"),
    ({"monitor": {"spike": 8}}, "monitor.spike", "expected fields"),
    # Optimizer
    ({"optimizer": {"b1": "a"}}, "optimizer.b1", "expected float"),
    ({"optimizer": {"b1": 1.0}}, "optimizer.b1", "below 1"),
    ({"optimizer": {"b2": -0.1}}, "optimizer.b2", "at least 0"),
    ({"optimizer": {"eps": 0}}, "optimizer.eps", "above 0"),
    ({"optimizer": {"weight_decay": NAN}}, "optimizer.weight_decay", "not nan"),
    ({"optimizer": {"clip": 0}}, "optimizer.clip", "above 0"),
    ({"optimizer": {"beta1": 0.9}}, "optimizer.beta1", "no such field"),
    ({"optimizer": {"kind": "moun"}}, "optimizer.kind", "did you mean 'muon'"),
    ({"optimizer": {"momentum": 1.0}}, "optimizer.momentum", "below 1"),
    ({"optimizer": {"moment_dtype": "float16"}}, "optimizer.moment_dtype", "one of float32, bfloat16"),
    ({"optimizer": {"decay_mask": "norms"}}, "optimizer.decay_mask", "one of matrices, hidden, all"),
    ({"optimizer": {"ema": 1}}, "optimizer.ema", "below 1"),
    ({"optimizer": {"z_loss": -1e-4}}, "optimizer.z_loss", "at least 0"),
    ({"optimizer": {"kind": "muon", "mup_base": "small"}}, "optimizer.mup_base", "are those of kind adamw"),
    ({"fit": {"weights": "ema"}}, "fit.weights", "one of last, average"),
    ({"fit": {"weights": "average"}}, "fit.weights", "average needs config.optimizer.ema"),
    ({"optimizer": {"mup_base": "tiny"}}, "optimizer.mup_base", "one of large, small"),
    # The model
    ({"model__dtype": "bf16"}, "model.dtype", "did you mean 'bfloat16'"),
    ({"model__heads": 3}, "model.heads", "3 does not divide model.d_model"),
    ({"model__heads": 4, "model__kv_heads": 3}, "model.kv_heads", "does not divide model.heads"),
    ({"sizes__large__heads": 3}, "sizes.large.heads", "3 does not divide model.d_model, 16"),
    ({"sizes__large__layers": 0}, "sizes.large.layers", "at least 1"),
    ({"sizes__large__laeyrs": 2}, "sizes.large.laeyrs", "did you mean 'layers'"),
    ({"model__d_model": "8"}, "model.d_model", "expected int"),
    ({"model__d_ff": 16.0}, "model.d_ff", "expected int"),
    ({"model__head_dim": 3}, "model.head_dim", "even number of channels"),
    ({"model__head_dim": -2}, "model.head_dim", "at least 0"),
    ({"model__vocab_size": 32}, "model.vocab_size", "no such field"),
    ({"model__remat": "some"}, "model.remat", "one of none, dots, full"),
    ({"model__norm": "rmsnorm"}, "model.norm", "one of rms, layer"),
    ({"model__bias": True}, "model.bias", "expected str"),
    ({"model__activation": "swiglu"}, "model.activation", "one of silu"),
    ({"model__attention": "flash"}, "model.attention", "one of auto, xla"),
    ({"model__rope_scaling": "ntk"}, "model.rope_scaling", "one of none, linear, llama3, yarn"),
    ({"model__rope_scaling": "yarn", "model__rope_beta_slow": 64}, "model.rope_beta_slow", "below rope_beta_fast, 32"),
    ({"model__rope_scaling": "yarn", "model__rope_theta": 1}, "model.rope_theta", "above 1 for yarn"),
    ({"model__rope_beta_fast": 0}, "model.rope_beta_fast", "above 0"),
    ({"model__rope_attention_factor": -1}, "model.rope_attention_factor", "at least 0"),
    ({"model__rope_truncate": 1}, "model.rope_truncate", "expected bool"),
    ({"model__layer_kinds": "full,global"}, "model.layer_kinds", "'global' is no kind of layer; name some of full, sl"),
    ({"model__layer_kinds": "full,sliding"}, "model.sliding_window", "0, but model.layer_kinds names"),
    ({"model__rope_theta": 0}, "model.rope_theta", "above 0"),
    ({"model__rope_factor": NAN}, "model.rope_factor", "not nan"),
    ({"model__rotary_fraction": 1.5}, "model.rotary_fraction", "at most 1"),
    ({"model__norm_eps": -1e-5}, "model.norm_eps", "at least 0"),
    ({"model__loss_block": -1}, "model.loss_block", "at least 0"),
    ({"model__gradient_dtype": "float16"}, "model.gradient_dtype", "one of bfloat16, float32"),
    ({"model__sliding_window": -1}, "model.sliding_window", "at least 0"),
    ({"model__norm_placement": "middle"}, "model.norm_placement", "one of pre, post, both"),
    ({"model__norm_placement": "post", "model__norm": "layer"}, "model.norm_placement", 'needs norm "rms"'),
    ({"model__qk_norm_over": "heads"}, "model.qk_norm_over", "one of head, projection"),
    ({"model__rope_local_theta": -1}, "model.rope_local_theta", "at least 0"),
    ({"model__norm_offset": 1}, "model.norm_offset", "expected bool"),
    ({"model__scale_embeddings": "yes"}, "model.scale_embeddings", "expected bool"),
    ({"model__query_pre_attn_scalar": -1}, "model.query_pre_attn_scalar", "at least 0"),
    ({"model__attention_softcap": -1}, "model.attention_softcap", "at least 0"),
    ({"model__logit_softcap": NAN}, "model.logit_softcap", "not nan"),
    ({"optimizer": {"mup_base": "small"}, "model__scale_embeddings": True}, "optimizer.mup_base", "scale_embeddings"),
    ({"model__tie_embeddings": 1}, "model.tie_embeddings", "expected bool"),
    ({"model__scan_layers": "no"}, "model.scan_layers", "expected bool"),
    ({"model": {"d_model": 8, "heads": 1, "kv_heads": 1}}, "model.layers", "missing; the model of size '"),
    # Vocabulary
    ({"vocabulary": {"kind": "sentencepeice"}}, "vocabulary.kind", "did you mean 'sentencepiece'"),
    ({"vocabulary": {"size": 0}}, "vocabulary.size", "at least 1"),
    ({"vocabulary": {"size": 100}}, "vocabulary.size", "at least 264"),
    ({"vocabulary": {"size": "1k"}}, "vocabulary.size", "expected int"),
    ({"vocabulary": {"eos": "</s>"}}, "vocabulary.eos", "with kind 'file' alone"),
    ({"vocabulary": "bytes"}, "vocabulary", "expected fields"),
    # SizeGrid, HeldOut, Question, FitSettings
    ({"grid__small__domain_shares": (NAN,)}, "grid.small.domain_shares", "not nan"),
    ({"grid__small__domain_shares": 0.5}, "grid.small.domain_shares", "expected a list"),
    ({"grid__small__domain_shares": (-0.1,)}, "grid.small.domain_shares", "0.25 for a quarter"),
    ({"grid__small__repeat_shares": (0.5,)}, "grid.small.repeat_seeds", "must not be empty"),
    ({"grid__small__repeat_seeds": (1,)}, "grid.small.repeat_shares", "must not be empty"),
    (small(repeat_shares=(0.5,), repeat_seeds=(-1,)), r"grid.small.repeat_seeds\[0\]", "a seed lies"),
    ({"grid__large__domain_shares": ()}, "grid.large.domain_shares", "the held-out size needs runs"),
    (small(base_seeds=(-1,)), r"grid.small.base_seeds\[0\]", "a seed lies"),
    ({"grid__large": {}}, "grid.large.domain_shares", "the held-out size needs runs"),
    (small(mixes=({"prose": 0.5, "cod": 0.5},)), r"grid.small.mixes\[0\].cod", "no such corpus; did you mean 'code'"),
    (small(mixes=({"prose": 0.5, "code": 0.4},)), r"grid.small.mixes\[0\]", "sum to 0.9, not to 1"),
    (small(mixes=({"prose": -0.5, "code": 1.5},)), r"grid.small.mixes\[0\].prose", "between 0 and 1"),
    (small(mixes={"prose": 1}), "grid.small.mixes", "expected a list"),
    (small(repeat_mixes=1, repeat_seeds=(1,)), "grid.small.repeat_mixes", "there are 0 in mixes and simplex"),
    (small(repeat_mixes=1), "grid.small.repeat_seeds", "must not be empty"),
    (small(simplex=3), "grid.small.simplex", "expected fields"),
    (simplex(count=0), "grid.small.simplex.count", "at least 1"),
    (simplex(count=102), "grid.small.simplex.count", "leave 101 different mixes, not 102"),
    (simplex(count=12, design="d_optimal"), "grid.small.simplex.count", "mixes that differ by 10% of the text, not 12"),
    (simplex(design="d-optimal"), "grid.small.simplex.design", "did you mean 'd_optimal'"),
    (simplex(seed=-1), "grid.small.simplex.seed", "a seed lies"),
    (simplex(floors={"law": 0.1}), "grid.small.simplex.floors.law", "no such corpus; it has prose, code"),
    (simplex(caps={"code": 2}), "grid.small.simplex.caps.code", "between 0 and 1"),
    (simplex(floors={"code": 0.6, "prose": 0.6}), "grid.small.simplex", "floors sum to 1.2"),
    (simplex(caps={"code": 0.3, "prose": 0.6}), "grid.small.simplex", "largest shares to 0.9"),
    (simplex(floors={"code": 0.5}, caps={"code": 0.4}), "grid.small.simplex", "its floor 0.5 is over"),
    (simplex(floors={"code": 0.333}, caps={"code": 0.335}), "grid.small.simplex", "whole 100ths"),
    ({"held_out__tokens": -1}, "held_out.tokens", "at least 0"),
    ({"held_out": {"size": "large"}}, "held_out.tokens", "missing"),
    ({"question": {"tolerance": NAN}}, "question.tolerance", "not nan"),
    ({"question": {"tolerance": 0}}, "question.tolerance", "above 0"),
    ({"question": {"tolerance": "3%"}}, "question.tolerance", "expected float"),
    # Study again: what is evaluated, and the questions of every kind
    ({"evaluated": ("law",)}, "evaluated", "no corpus 'law'"),
    ({"evaluated": ("code",)}, "evaluated", "code is trained on"),
    ({**LAW, "evaluated": ("law", "law")}, "evaluated", "each corpus once"),
    ({**LAW, "evaluated": ("law",), "fit": {"law": "dcpt"}}, "fit.law", "no run trains on law: take a law of the"),
    ({"confirm_runs": -1}, "confirm_runs", "at least 0"),
    ({"cross_domain": {"probe_tokens": (1,)}}, "cross_domain.probe_tokens", "two or three of eval_tokens"),
    ({"cross_domain": {"probe_tokens": 3}}, "cross_domain.probe_tokens", "expected"),
    ({"cross_domain": {"probe_size": "x"}}, "cross_domain.probe_tokens", "missing"),
    ({"cross_domain": 1}, "cross_domain", "expected"),
    ({"question": 3}, "question", "expected fields"),
    (question("trade"), "question.kind", "did you mean 'trade-off'"),
    (question("pareto"), "question.kind", "one of trade-off, share, limited-data, budget, mixture"),
    (question("trade-off", loss=2.0), "question.loss", "no such field"),
    (question("trade-off", level=1), "question.level", "above 0 and below 1"),
    (question("trade-off", size="huge"), "question.size", "config.sizes has"),
    (question("trade-off", tokens=100), "question.tokens", "no whole number of steps; the nearest is 128"),
    (question("trade-off", rise=0), "question.rise", "above 0"),
    (question("trade-off", confidence=1), "question.confidence", "below 1"),
    (question("trade-off", corpus_tokens={"cod": 1e6}), "question.corpus_tokens.cod", "did you mean 'code'"),
    (question("share"), "question.loss", "missing"),
    (question("share", loss=-1), "question.loss", "above 0"),
    (question("limited-data", domain_tokens=3), "question.domain_tokens", "at least 1000"),
    (question("limited-data", max_epochs=0.5), "question.max_epochs", "at least 1"),
    (question("limited-data", repetition=0), "question.repetition", "above 0"),
    (question("budget"), "question.flops", "missing"),
    (question("budget", flops=0), "question.flops", "above 0"),
    (question("budget", flops=1e12, share=2), "question.share", "between 0 and 1"),
    (question("budget", flops=1e12, share=0.5, ceiling=3), "question.ceiling", "one of ceiling and share"),
    (question("budget", flops=1e12, sizes=("huge",)), "question.sizes", "no size 'huge'"),
    (question("budget", flops=1e12, inference_tokens=-1), "question.inference_tokens", "at least 0"),
    ({**question("budget", flops=1e12), "fit": {"law": "cmr"}}, "fit.law", "does not read params"),
    (question("mixture", weights={"cod": 1}), "question.weights.cod", "did you mean 'code'"),
    (question("mixture", weights={"code": -1}), "question.weights.code", "at least 0"),
    (question("mixture", weights={"code": 0}), "question.weights", "a weight above 0"),
    (question("mixture", worst=1), "question.worst", "expected bool"),
    (question("mixture", floors={"cod": 0.1}), "question.floors.cod", "did you mean 'code'"),
    (question("mixture", floors={"code": 0.7, "prose": 0.7}), "question", "floors sum to 1.4"),
    (question("mixture", caps={"code": 0.1, "prose": 0.7}), "question", "largest shares to 0.8"),
    (question("mixture", corpus_tokens={"code": 0}), "question.corpus_tokens.code", "at least 1000"),
    (question("mixture", max_epochs=0), "question.max_epochs", "above 0"),
    (question("mixture", ceilings={"law": 3}), "question.ceilings.law", "no such corpus"),
    (question("mixture", tolerances={"prose": 3}), "question.tolerances.prose", "0.03 for 3%"),
    (question("mixture", ceilings={"code": 3}, tolerances={"code": 0.1}), "question.tolerances.code", "a ceiling too"),
    (question("mixture", beyond="yes"), "question.beyond", "expected bool"),
    ({"fit": {"bootstrap": -1}}, "fit.bootstrap", "at least 0"),
    ({"fit": {"bootstrap": 10.5}}, "fit.bootstrap", "expected int"),
    ({"fit": {"law": "dpct"}}, "fit.law", "did you mean 'dcpt'"),
    ({"fit": {"law": "dcpt:constraind=false"}}, "fit.law", "no option 'constraind'"),
    ({"fit": {"law": "perplexity"}}, "fit.law", "reads ppl_mean, ppl_std"),
    ({"fit": {"law": "chinchilla"}}, "fit.law", "does not read the domain share"),
    ({"fit": {"law": ""}}, "fit.law", "must not be empty"),
]  # fmt: skip


def changed(make_config, change):
    """The tiny config as a dictionary, which unlike a ConfigDict takes values of any type."""
    config = make_config().to_dict()
    for path, value in change.items():
        node = config
        *parents, leaf = path.split("__")
        for name in parents:
            node = node[name]
        node[leaf] = value
    return config


@pytest.mark.parametrize("change, field, says", BAD, ids=lambda x: x if isinstance(x, str) else None)
def test_a_value_out_of_range_is_named(make_config, change, field, says):
    path = field if "\\" in field else field.replace(".", r"\.")
    with pytest.raises(ConfigError, match=rf"^config\.{path}: .*{says}"):
        config_lib.parse(changed(make_config, change))


KINDS = [Study, SizeGrid, Simplex, TradeOff, ShareForLoss, LimitedData, Budget, Mixture]


@pytest.mark.parametrize("kind", [*KINDS, Phase, Monitor, Spike, Optimizer, Config])
def test_every_field_was_tried(kind):
    """A new field needs a range, and a line above that leaves it."""
    tried = {part for _, path, _ in BAD for part in path.replace("\\[0\\]", "").split(".")}
    free = {"mup_base", "vocab_size", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_context"}
    free |= {"parallel_residual", "qk_norm", "gated"}  # switches, checked as the others are
    free |= {"described"}  # what an imported model says of itself; no config gives it
    assert {field.name for field in dataclasses.fields(kind)} - tried <= free


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_seconds": 0},
        {"monitor": {"profile_steps": (3, 3), "spike": {"deviations": 4}, "stall_seconds": 0}},
        {"optimizer": {"clip": INF, "b1": 0, "mup_base": "small"}},
        {"optimizer": {"kind": "muon", "momentum": 0, "ema": 0.9999, "z_loss": 0}, "fit": {"weights": "average"}},
        {"cpt__warmup_tokens": 256},
        {"cpt__schedule": "wsd", "cpt__cooldown_tokens": 192},
        {"microbatches": 4, "mesh": {"data": -1, "fsdp": 2}},
        {"base__tokens": 256.0, "eval_tokens": [128.0, 256]},
        {"fit": {"law": "mixing", "bootstrap": 0}},
        {"grid__small__domain_shares": (0, 1)},
        BRANCHED,
    ],
)
def test_the_ends_of_the_ranges_are_valid(make_config, change):
    config_lib.parse(changed(make_config, change))


class TestWhatTheConfigNames:
    """Files, folders and packages are looked for before a corpus is opened."""

    @pytest.fixture
    def refused(self, make_config, tmp_path, monkeypatch):
        monkeypatch.setattr(prepared.build, "prepare", lambda *_, **__: pytest.fail("it must be refused first"))
        for name in ("prose", "code"):
            (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}\n')
        here = {name: str(tmp_path / f"{name}.jsonl") for name in ("prose", "code")}

        def refused(says, **changes):
            corpora = {**here, **changes.pop("corpora", {})}
            study = config_lib.parse(make_config(corpora=ConfigDict(corpora), **changes))
            with pytest.raises(ConfigError, match=says):
                prepared.prepare(study, tmp_path / "work")
            assert not (tmp_path / "work").exists(), "a workdir is not claimed by a config that cannot be"

        return refused

    def test_corpora(self, refused):
        refused(r"config\.corpora\.code: no/where: no such file or folder", corpora={"code": "no/where"})
        refused(r"config\.corpora\.code\.source: no/where", corpora={"code": {"source": "no/where"}})
        refused(r"config\.corpora\.code: recipe:cobol: no such recipe", corpora={"code": "recipe:cobol"})
        refused(r"config\.corpora\.code: tfds:NAME", corpora={"code": "tfds:"})

    def test_a_package_of_a_corpus_or_a_writer(self, refused, monkeypatch):
        monkeypatch.setattr(inputs, "_installed", lambda package: False)
        refused(r"config\.corpora\.code: .*pip install 'cptlaw\[train\]'", corpora={"code": "tfds:c4/en"})
        refused(r"config\.monitor\.writers: wandb is not installed", monitor={"writers": ("wandb",)})

    def test_a_vocabulary_without_an_end(self, refused, tmp_path):
        import tokenizers

        words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
        words.save(str(tmp_path / "tokenizer.json"))
        here = {"kind": "file", "path": str(tmp_path)}
        refused(r"config\.vocabulary\.path: .*no token '' to end a document", vocabulary=here)
        refused(r"config\.vocabulary\.path: .*no token '</s>'", vocabulary={**here, "eos": "</s>"})
        refused(r"config\.vocabulary\.path: .*nowhere", vocabulary={"kind": "file", "path": "nowhere"})

    def test_weights(self, refused, tmp_path):
        llama = {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300, "hidden_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 16,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 64,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(llama))
        from_folder = {"init_from": {"small": str(tmp_path)}, "sizes__small": {}}
        refused(r"config\.init_from\.small: .*safetensors", vocabulary={"kind": "bytes"}, **from_folder)
        refused(r"config\.init_from\.small: the model has 300 token ids", vocabulary={"size": 512}, **from_folder)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", '{"cpt": 1'])
def test_a_damaged_config_of_a_workdir_is_named(study, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    if text == "{":
        text += '"a": '
    with pytest.raises(UserError, match=r"config\.json: damaged: .*--update-config"):
        prepared.claim_workdir(study, Workdir(tmp_path), False)
    prepared.claim_workdir(study, Workdir(tmp_path), True)
    prepared.claim_workdir(study, Workdir(tmp_path), False)


def test_no_damage_of_a_workdirs_config_is_a_traceback_or_passes_unseen(study, tmp_path):
    workdir = Workdir(tmp_path)
    whole = study.to_json().encode()
    rng = np.random.default_rng(0)
    for _ in range(400):
        text, at = bytearray(whole), int(rng.integers(len(whole)))
        how = rng.integers(4)
        if how == 0:
            text[at] ^= 1 << int(rng.integers(8))
        elif how == 1:
            del text[at : at + int(rng.integers(1, 40))]
        elif how == 2:
            text[at:at] = text[at : at + int(rng.integers(1, 40))]
        else:
            del text[at:]
        workdir.config.write_bytes(text)
        try:
            prepared.claim_workdir(study, workdir, False)
        except UserError as error:
            assert re.search(r"config\.json: damaged|these fields differ: config\b", str(error))
        else:
            changed = prepared._differences(json.loads(text), json.loads(whole))
            assert all(field.startswith(prepared._ABOUT_NO_RUN) for field in changed)
