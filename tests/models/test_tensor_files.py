"""Folders of weights as they go wrong: each named in one line, with what to do."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import FAMILIES, weight

from cptlaw.errors import UserError
from cptlaw.models import families, hf
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.models.tensor_files import WeightsWarning

ONE = Layout(make_mesh(data=1, devices=jax.devices()[:1]))
SMOL, LLAMA, NEOX = "smollm2", "llama2", "pythia"  # SmolLM2 is tied
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 99\n"


def tensors(family):
    given = FAMILIES[family]
    return {n: weight(n, t.shape) for n, t in hf.tensors(given["model_type"], families.of_json(given)).items()}


def folder(path, family, files=1, change=lambda stored: stored):
    """The tiny model's folder, its tensors changed."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(FAMILIES[family]))
    stored = change(tensors(family))
    if files == 1:
        save_file(stored, path / "model.safetensors")
        return path
    place = {name: f"model-{i % files + 1:05}-of-{files:05}.safetensors" for i, name in enumerate(stored)}
    for file in set(place.values()):
        save_file({name: x for name, x in stored.items() if place[name] == file}, path / file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    return path


def refused(path, says):
    with pytest.raises(UserError, match=says) as error:
        hf.load(path, ONE)
    assert len(str(error.value)) - len(str(path)) * str(error.value).count(str(path)) < 420
    assert "\n" not in str(error.value)


def test_the_one_file_is_read_beside_an_index_of_others(tmp_path):
    folder(tmp_path, LLAMA, files=3, change=lambda stored: {name: x * 0 for name, x in stored.items()})
    folder(tmp_path, LLAMA)
    with pytest.warns(WeightsWarning, match=r"model\.safetensors is read; model\.safetensors\.index\.json beside it"):
        _, params = hf.load(tmp_path, ONE)
    np.testing.assert_array_equal(params["embed"], tensors(LLAMA)["model.embed_tokens.weight"])
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    hf.load(tmp_path, ONE)  # an index of that file says nothing else


def with_head(stored, same):
    embedding = stored["model.embed_tokens.weight"]
    return stored | {"lm_head.weight": embedding.copy() if same else embedding * 1.01}


def test_a_tied_model_with_a_head_of_its_own_is_refused(tmp_path):
    hf.load(folder(tmp_path / "same", SMOL, change=lambda stored: with_head(stored, True)), ONE)
    path = folder(tmp_path / "other", SMOL, change=lambda stored: with_head(stored, False))
    refused(path, "lm_head.weight is not the embedding, though tie_word_embeddings is true; set it to false")
    (path / "config.json").write_text(json.dumps(FAMILIES[SMOL] | {"tie_word_embeddings": False}))
    hf.load(path, ONE)  # the cure


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"])
def test_numbers_that_are_not_finite_are_refused(tmp_path, name, value):
    def spoil(stored):
        stored[name].flat[3] = value
        return stored

    refused(folder(tmp_path, LLAMA, change=spoil), f"{name} holds numbers that are not finite")


@pytest.mark.parametrize(
    ("dtype", "word"), [(ml_dtypes.float8_e4m3fn, "F8_E4M3"), (ml_dtypes.float8_e5m2, "F8_E5M2"), (np.int8, "I8")]
)
def test_quantised_weights_are_refused(tmp_path, dtype, word):
    name = "model.layers.0.mlp.up_proj.weight"
    path = folder(tmp_path, LLAMA, change=lambda stored: stored | {name: stored[name].astype(dtype)})
    refused(path, f"{name} is stored as {word}, so these are quantised weights; download the model in bfloat16")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_are_read(tmp_path, dtype):
    path = folder(tmp_path, LLAMA, change=lambda stored: {name: x.astype(dtype) for name, x in stored.items()})
    _, params = hf.load(path, ONE)
    expected = tensors(LLAMA)["model.embed_tokens.weight"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(params["embed"], expected)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_names_of_a_wrapper_are_refused_with_a_cure_that_works(tmp_path, prefix):
    path = folder(tmp_path, LLAMA, change=lambda stored: {prefix + name: x for name, x in stored.items()})
    refused(path, rf"its tensors have other names \({prefix}lm_head.* take '{prefix}' off")
    with pytest.raises(UserError) as error:
        hf.load(path, ONE)
    cure = str(error.value).partition("for each file: ")[2]
    exec(cure, {"save_file": save_file, "load_file": load_file, "file": path / "model.safetensors"})
    hf.load(path, ONE)


def bare(stored):
    return {name.removeprefix("model.").removeprefix("gpt_neox."): x for name, x in stored.items()}


def test_a_model_saved_without_its_head_is_read_as_transformers_reads_it(tmp_path):
    _, params = hf.load(folder(tmp_path / "a", SMOL, change=bare), ONE)
    np.testing.assert_array_equal(params["embed"], tensors(SMOL)["model.embed_tokens.weight"])
    headless = {"lm_head.weight", "embed_out.weight"}
    for name, family in (("b", LLAMA), ("c", NEOX)):
        path = folder(tmp_path / name, family, change=lambda s: bare({n: x for n, x in s.items() if n not in headless}))
        refused(path, r"(lm_head|embed_out).weight \(32, \d+\) is missing$")


def test_both_names_of_the_head_of_gpt_neox_are_read(tmp_path):
    def renamed(stored):
        return {name.replace("embed_out", "lm_head"): x for name, x in stored.items()}

    _, params = hf.load(folder(tmp_path, NEOX, change=renamed), ONE)
    np.testing.assert_array_equal(params["unembed"], tensors(NEOX)["embed_out.weight"])


def test_weights_of_another_model_are_told_in_one_line(tmp_path):
    path = folder(tmp_path, LLAMA, change=lambda s: {f"transformer.h.{i}.w": x for i, x in enumerate(s.values())})
    refused(path, "these are the weights of another architecture")
    path = folder(tmp_path, LLAMA)
    (path / "config.json").write_text(json.dumps(FAMILIES[LLAMA] | {"num_hidden_layers": 40}))
    refused(path, "model.layers.2.self_attn.k_proj.weight .* is missing; .*; and 336 more")


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def cut_header(path):
    path.write_bytes(path.read_bytes()[:100])


def pointer(path):
    path.write_bytes(POINTER)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, r"safetensors: no readable safetensors \(.*\); download it again"),
        (cut_header, r"safetensors: no readable safetensors \(.*\); download it again"),
        (empty, r"safetensors: no readable safetensors \(.*\); download it again"),
        (pointer, r"safetensors: a Git LFS pointer, not the file itself; run `git lfs pull`"),
    ],
)
def test_damaged_files_are_named(tmp_path, files, damage, says):
    path = folder(tmp_path, LLAMA, files)
    damage(sorted(path.glob("model*.safetensors"))[0])
    refused(path, says)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"{", "index.json: not readable"),
        (b"[]", "index.json: not readable"),
        (b'{"metadata": {}}', "index.json: not readable"),
        (b'{"weight_map": {}}', "names no files"),
        (b'{"weight_map": {"a": "../other.safetensors"}}', "names no files, or files elsewhere"),
        (b'{"weight_map": {"a": 3}}', "index.json: not readable"),
        (POINTER, "index.json: a Git LFS pointer"),
    ],
)
def test_damaged_indices_are_named(tmp_path, index, says):
    path = folder(tmp_path, LLAMA, 2)
    (path / "model.safetensors.index.json").write_bytes(index)
    refused(path, says)


def test_missing_shards_are_named(tmp_path):
    path = folder(tmp_path, LLAMA, 4)
    (path / "model-00002-of-00004.safetensors").unlink()
    refused(path, r"model-00002-of-00004.safetensors of 4 files that model.safetensors.index.json names are missing")
    (path / "model-00004-of-00004.safetensors").unlink()
    refused(path, r"model-00002-of-00004.safetensors and 1 more of 4 files that")
    path = folder(tmp_path / "b", LLAMA, 2)
    save_file({"a": np.zeros(2, np.float32)}, path / "model-00002-of-00002.safetensors")
    refused(path, "model-00002-of-00002.safetensors lacks model.*, which model.safetensors.index.json places there")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pytorch_model.bin", r"pytorch_model.bin is a pickle, which is not opened; convert it with transformers"),
        ("pytorch_model-00001-of-00002.bin", "is a pickle"),
        ("pytorch_model.bin.index.json", "is a pickle"),
        ("model-00001-of-00002.safetensors", "model.safetensors.index.json is not; download that too"),
        ("adapter_model.safetensors", "a LoRA adapter; merge it"),
        ("consolidated.00.pth", "consolidated.00.pth is in another format"),
        ("consolidated.safetensors", "consolidated.safetensors is in another format"),
        ("tf_model.h5", "tf_model.h5 is in another format"),
        ("model-q4.gguf", "model-q4.gguf is of llama.cpp; name that file itself"),
        ("README.md", "there is no model.safetensors and no model.safetensors.index.json; download"),
    ],
)
def test_other_formats_are_named_with_the_way_from_them(tmp_path, name, says):
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES[LLAMA]))
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, f"no readable safetensors: .*{says}")


@pytest.mark.parametrize("name", ["llama_sw", "rope_both", "both_yarn", "stale_index"])
@pytest.mark.filterwarnings("ignore::cptlaw.models.tensor_files.WeightsWarning")
def test_cases_have_the_logits_of_transformers(cases, name):
    from cptlaw.models import transformer

    ids = np.load(cases / "weights" / "ids.npy").astype(np.int32)
    cfg, params = hf.load(cases / "weights" / name, ONE, scan_layers=True)
    positions = np.tile(np.arange(ids.shape[1], dtype=np.int32), (len(ids), 1))
    logits = jax.jit(transformer.apply, static_argnums=1)(params, cfg, ids, np.ones_like(ids), positions)
    np.testing.assert_allclose(logits, np.load(cases / "weights" / name / "logits.npy"), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "says"),
    [("tied_other_head", "lm_head.weight is not the embedding")],
)
def test_cases_that_are_refused(cases, name, says):
    refused(cases / "weights" / name, says)
