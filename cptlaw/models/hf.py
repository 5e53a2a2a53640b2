"""Weights in Hugging Face's format (safetensors and config.json), read straight to where they belong, and written."""

import dataclasses
import functools
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.lfs import refuse_pointer
from cptlaw.models import families, places, transformer
from cptlaw.models.config import Config
from cptlaw.models.places import Place
from cptlaw.models.tensor_files import Index, Safetensors, Source, WeightsError
from cptlaw.models.transformer import Params
from cptlaw.models.tree import differences, path_name
from cptlaw.progress import bar as progress_bar
from cptlaw.storage.copies import folder, new_folder

if TYPE_CHECKING:
    from cptlaw.models.sharding import Layout


def load(
    path: str | os.PathLike[str], layout: "Layout", *, progress: bool = False, **fields: Any
) -> tuple[Config, Params]:
    """The model in a folder as downloaded: (Config, float32 params placed by the layout).

    Args:
      path: a folder, here or in a bucket (gs://, s3://), of which this machine then keeps a copy. It holds config.json
        and model.safetensors, or model.safetensors.index.json and the files it names.
      fields: of the Config, that are no part of the architecture: dtype, remat, scan_layers, loss_block, attention.

    Raises: see `read_config` and `load_params`.
    """
    cfg = dataclasses.replace(read_config(path), **fields)
    return cfg, load_params(path, cfg, abstract_params(cfg, layout), progress=progress)


def abstract_params(cfg: Config, layout: "Layout") -> Params:
    """Shapes, dtypes and shardings of the parameters."""
    return layout.abstract(jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg)))


def read_config(path: str | os.PathLike[str], family: families.Family | None = None) -> Config:
    """The Config of a folder's config.json, which `family` may describe as one of a family here.

    Raises WeightsError when it has none or the family cannot describe it, else as `families.of_json`.
    """
    path = folder(path)
    given = _read_json(path / "config.json", "name a folder as downloaded from Hugging Face")
    try:
        given = _described(family, given)
        cfg = families.of_json(given)
    except UserError as error:
        raise WeightsError(f"{path / 'config.json'}: {str(error).removeprefix('config.json: ')}") from error
    described = {"config": given}
    if (path / "generation_config.json").exists():
        described["generation_config"] = _read_json(path / "generation_config.json", "download it again")
    return dataclasses.replace(cfg, described=json.dumps(described))


def _described(family: families.Family | None, given: dict[str, Any]) -> dict[str, Any]:
    if family is None:
        return given
    try:
        made = family.described(given)
        return json.loads(json.dumps(dict(made)))
    except Exception as error:  # the user's program may raise anything
        raise UserError(f"its family, which your file describes, fails: {type(error).__name__}: {error}") from error


def _read_json(file: Path, cure: str) -> dict[str, Any]:
    refuse_pointer(file, WeightsError)
    try:
        given = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file}: not readable ({error}); {cure}") from error
    if not isinstance(given, dict):
        raise WeightsError(f"{file}: not readable (no object with fields); {cure}")
    return given


def load_params(
    path: str | os.PathLike[str], cfg: Config, abstract: Params, family: families.Family | None = None, *,
    progress: bool = False,
) -> Params:  # fmt: skip
    """The folder's weights as parameters of `cfg`: see `assemble`, and `read_config` of `family`."""
    # A Config does not say which of two families that compute the same it came from; their tensors may differ.
    like = json.loads(read_config(path, family).described)["config"]["model_type"]
    source: Source = Safetensors(folder(path))
    if family is not None:
        theirs = {name: family.tensor(name) for name in tensors(like, cfg)}
        left = {name: name for name in source.shapes if name not in theirs.values()}
        source = _Renamed(source, left | {ours: name for ours, name in theirs.items() if name in source.shapes})
    return assemble(source, like, cfg, abstract, progress=progress)


def assemble(source: Source, family: str, cfg: Config, abstract: Params, *, progress: bool = False) -> Params:
    """Parameters from a source's tensors, each device's shards read and sent one at a time.

    The host never holds more than one shard of one parameter (its layers stacked), whatever the size of the model.

    Args:
      abstract: as of `abstract_params`, or `make_start(...)[1].params`.

    Raises WeightsError that lists tensors that are missing, unused or of another shape, or names one with a number that
    is not finite.
    """
    wanted = {name: tensor.shape for name, tensor in tensors(family, cfg).items()}
    source = _under_names(source, wanted)
    _check(source, wanted, tied=cfg.tie_embeddings)
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    loaded = []
    with progress_bar(progress=progress, desc="Reading weights", total=len(leaves), unit=" parameters") as bar:
        for path, leaf in leaves:
            place = places.PLACES[family][path_name(path)]
            read = functools.partial(_shard, source, place, _sizes(cfg), _stacked(path), leaf)
            loaded.append(_place(leaf, read))
            bar.update()
    return jax.tree.unflatten(tree, loaded)


def _place(leaf: jax.ShapeDtypeStruct, read: Any) -> jax.Array:
    """The array whose shards `read` gives, each sent when read: make_array_from_callback keeps all until the last."""
    devices: dict[tuple[Any, ...], list[jax.Device]] = {}
    for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
        bounds = tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape))
        devices.setdefault(bounds, []).append(device)
    shards = []
    for bounds, replicas in devices.items():
        shard = read(tuple(slice(*b) for b in bounds))
        shards += [jax.device_put(shard, device) for device in replicas]
        jax.block_until_ready(shards[-len(replicas) :])
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)


def _shard(
    source: Source, place: Place, sizes: dict[str, int], stacked: bool, leaf: jax.ShapeDtypeStruct, index: Index
) -> np.ndarray:
    """One shard of a parameter, cut from its tensor or (stacked) from those of the layers."""
    if not stacked:
        return _cut(source, place.name, place, sizes, index).astype(leaf.dtype)
    layers = range(index[0].start, index[0].stop)
    shard = np.empty([s.stop - s.start for s in index], leaf.dtype)
    for row, layer in enumerate(layers):
        shard[row] = _cut(source, place.name.format(layer), place, sizes, index[1:])
    return shard


def _cut(source: Source, name: str, place: Place, sizes: dict[str, int], index: Index) -> np.ndarray:
    groups, ours = _letters(place.layout)
    want = dict(zip(ours, index))
    # A file is read in ranges of rows and columns: those of each group's outer letter. The inner ones are cut after.
    ranges = []
    for group in groups:
        step = math.prod(sizes[letter] for letter in group[1:])
        ranges.append(slice(want[group[0]].start * step, want[group[0]].stop * step))
    above, _ = _rows(place, sizes)
    ranges[0] = slice(ranges[0].start + above, ranges[0].stop + above)
    outer = {group[0]: want[group[0]].stop - want[group[0]].start for group in groups}
    theirs = [letter for group in groups for letter in group]
    array = source.read(name, tuple(ranges)).reshape([outer.get(letter, sizes[letter]) for letter in theirs])
    # The minimum of an array that holds a NaN is NaN.
    if array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise WeightsError(f"{source}: {name} holds numbers that are not finite; download it, or export it, again")
    array = array[tuple(slice(None) if x in outer else place.part if x == "n" else want[x] for x in theirs)]
    kept = [letter for letter in theirs if letter != "n"]
    return array.transpose([kept.index(letter) for letter in ours])


def _rows(place: Place, sizes: dict[str, int]) -> tuple[int, int]:
    """Of matrices that are stacked in one tensor, the rows above this one and those of all; 0 and 0 if none are."""
    rows = [math.prod(sizes[letter] for letter in letters) for letters in place.stacked]
    return sum(rows[: place.part]) if rows else 0, sum(rows)


@dataclasses.dataclass
class Tensor:
    """A tensor of a checkpoint: its shape, and the (parameter, layer or None, place) that it holds."""

    shape: tuple[int, ...]
    holds: list[tuple[str, int | None, Place]]


def tensors(family: str, cfg: Config) -> dict[str, Tensor]:
    """All tensors of a model in its family's format, by name."""
    sizes = _sizes(cfg)
    found: dict[str, Tensor] = {}
    shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg))
    for path, _ in jax.tree_util.tree_leaves_with_path(shapes):
        place = places.PLACES[family][path_name(path)]
        shape = tuple(math.prod(sizes[letter] for letter in group) for group in _letters(place.layout)[0])
        if place.stacked:
            shape = _rows(place, sizes)[1], *shape[1:]
        for layer in range(cfg.layers) if _stacked(path) else [None]:
            tensor = found.setdefault(place.name.format(layer), Tensor(shape, []))
            tensor.holds.append((path_name(path), layer, place))
    return found


class _Renamed:
    """A source whose tensors have other names."""

    def __init__(self, source: Source, names: Mapping[str, str]):
        self._source, self._names = source, names
        self.shapes = {name: source.shapes[theirs] for name, theirs in names.items()}

    def __str__(self) -> str:
        return str(self._source)

    def read(self, name: str, index: Index) -> np.ndarray:
        return self._source.read(self._names[name], index)


def _under_names(source: Source, wanted: Mapping[str, Any]) -> Source:
    """The source under the names wanted, where transformers too would find them under others.

    A model saved without its head lacks the first part of its names; GPT-NeoX's head has had two names.
    """
    base = _embedding(wanted).partition(".")[0] + "."
    names = {name: name for name in source.shapes}
    if not any(name in wanted for name in names):
        names = {base + name if base + name in wanted else name: name for name in names}
    if "embed_out.weight" in wanted and "embed_out.weight" not in names and "lm_head.weight" in names:
        names["embed_out.weight"] = names.pop("lm_head.weight")
    return source if all(name == theirs for name, theirs in names.items()) else _Renamed(source, names)


def _embedding(wanted: Mapping[str, Any]) -> str:
    return next(name for name in wanted if "embed_tokens" in name or "embed_in" in name)


def _check(source: Source, wanted: Mapping[str, tuple[int, ...]], tied: bool) -> None:
    has = {name: tuple(shape) for name, shape in source.shapes.items() if not re.search(places.IGNORED, name)}
    embedding = _embedding(wanted)
    for head in ("lm_head.weight", "embed_out.weight"):
        # Some tied checkpoints store the embedding twice.
        if tied and head in has and has[head] == has.get(embedding):
            if not _equal(source, head, embedding):
                raise WeightsError(
                    f"{source}: {head} is not the embedding, though tie_word_embeddings is true; set it to false in "
                    "config.json to use that head (as transformers 5 does), or remove the tensor"
                )
            has.pop(head)
    wrong = differences(wanted, has, "is not used by this model")
    if wrong and has and not any(name in has for name in wanted):
        raise WeightsError(
            f"{source}: its tensors have other names ({min(has)} in the place of {min(wanted)}){_cure(has, wanted)}"
        )
    if wrong:
        more = [f"and {len(wrong) - _LISTED} more"] if len(wrong) > _LISTED else []
        raise WeightsError(
            f"{source}: these are not the weights of this config: {'; '.join([*wrong[:_LISTED], *more])}"
        )


_LISTED = 6


def _cure(has: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How tensors get their names back that a wrapper put something in front of."""
    prefix = next((theirs.removesuffix(name) for theirs in has for name in wanted if theirs.endswith(f".{name}")), None)
    if prefix is None:
        return "; these are the weights of another architecture"
    return (
        f"; take {prefix!r} off with safetensors.numpy, for each file: "
        f"save_file({{k.removeprefix({prefix!r}): v for k, v in load_file(file).items()}}, file)"
    )


def _equal(source: Source, one: str, other: str) -> bool:
    """Whether two matrices are the same, a block of rows at a time."""
    rows, columns = source.shapes[one]
    blocks = ((slice(i, min(i + 4096, rows)), slice(0, columns)) for i in range(0, rows, 4096))
    return all(np.array_equal(source.read(one, block), source.read(other, block)) for block in blocks)


def save(
    path: str | os.PathLike[str],
    cfg: Config,
    params: Params,
    *,
    dtype: str = "float32",
    file_bytes: int = 5 * 10**9,
    metadata: Mapping[str, Any] | None = None,
    like: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a folder that `transformers` reads: config.json and safetensors, whole or not at all.

    The host holds one file's tensors at a time. With several processes all take part and the first writes.

    Args:
      path: a new or an empty folder; a place in a bucket (gs://, s3://) that holds nothing yet.
      dtype: of the stored weights: float32 or bfloat16.
      file_bytes: what a file may hold; larger models are divided over several, with an index.
      metadata: further fields of config.json, such as eos_token_id and max_position_embeddings.
      like: the folder that the model was imported from, for a `cfg` that comes from a run: what its config.json and
        generation_config.json say is kept, as it is of a `cfg` that `load` returned.

    Raises UserError when `path` holds something, or no Hugging Face architecture can express the config.
    """
    if dtype not in ("float32", "bfloat16"):
        raise WeightsError(f"dtype {dtype!r}: weights are stored as float32 or bfloat16")
    with new_folder(path) as here:
        _together("weights are to be written")  # nobody looks whether the place is empty after another has written
        _save(here, cfg, params, dtype, file_bytes, metadata, like)
    _together("weights are written")


def _together(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def _save(
    path: Path, cfg: Config, params: Params, dtype: str, file_bytes: int, metadata: Mapping[str, Any] | None,
    like: str | os.PathLike[str] | None,
) -> None:  # fmt: skip
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise WeightsError(f"{path}: exists already; name a new folder")
    if like is not None:
        cfg = dataclasses.replace(cfg, described=read_config(like).described)
    described = families.to_json(cfg)
    described |= {"dtype" if "dtype" in described else "torch_dtype": dtype, **(metadata or {})}
    generation = json.loads(cfg.described).get("generation_config") if cfg.described else None
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as hidden:
        unfinished = Path(hidden) / path.name
        unfinished.mkdir()
        _write(unfinished, described["model_type"], cfg, params, np.dtype(dtype), file_bytes)
        if jax.process_index() == 0:
            atomic.write_text(unfinished / "config.json", json.dumps(described, indent=2) + "\n")
            if generation is not None:
                atomic.write_text(unfinished / "generation_config.json", json.dumps(generation, indent=2) + "\n")
            unfinished.replace(path)


def _write(folder: Path, family: str, cfg: Config, params: Params, dtype: np.dtype, file_bytes: int) -> None:
    from safetensors.numpy import save_file

    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    wanted = tensors(family, cfg)
    files = list(
        _files({name: math.prod(tensor.shape) * dtype.itemsize for name, tensor in wanted.items()}, file_bytes)
    )
    names = ["model.safetensors"]
    if len(files) > 1:
        names = [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    for file, held in zip(names, files):
        stored = {name: _tensor(wanted[name], leaves, _sizes(cfg), dtype) for name in held}
        if jax.process_index() == 0:
            with atomic.replacing(folder / file) as temporary:
                save_file(stored, temporary, metadata={"format": "pt"})
    if len(files) > 1 and jax.process_index() == 0:
        total = sum(math.prod(tensor.shape) for tensor in wanted.values()) * dtype.itemsize
        weight_map = {name: file for file, held in zip(names, files) for name in held}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        atomic.write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _files(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    held: list[str] = []
    total = 0
    for name, size in sizes.items():
        if held and total + size > most:
            yield held
            held, total = [], 0
        held.append(name)
        total += size
    yield held


def _tensor(tensor: Tensor, leaves: Mapping[str, jax.Array], sizes: dict[str, int], dtype: np.dtype) -> np.ndarray:
    array = np.empty(tensor.shape, dtype)
    for path, layer, place in tensor.holds:
        groups, ours = _letters(place.layout)
        letters = [letter for group in groups for letter in group]
        theirs = [letter for letter in letters if letter != "n"]
        shape = [sizes[letter] for letter in letters]
        above, _ = _rows(place, sizes)
        own = array[above : above + math.prod(shape) // math.prod(tensor.shape[1:])].reshape(shape)  # a view
        part = leaves[path] if layer is None else leaves[path][layer]
        if not part.is_fully_addressable:
            part = multihost_utils.process_allgather(part, tiled=True)
        at = tuple(place.part if letter == "n" else slice(None) for letter in letters)
        own[at] = np.asarray(part).transpose([ours.index(letter) for letter in theirs]).reshape(own[at].shape)
    return array


@functools.lru_cache
def _letters(layout: str) -> tuple[list[list[str]], list[str]]:
    """The letters of a layout: those of the checkpoint's axes, in groups, and those of our parameter's axes."""
    theirs, ours = layout.split(" -> ")
    return [group.strip("()").split() for group in re.findall(r"\([^)]*\)|\w", theirs)], ours.split()


def _sizes(cfg: Config) -> dict[str, int]:
    return {
        "v": cfg.vocab_size,
        "d": cfg.d_model,
        "f": cfg.d_ff,
        "k": cfg.kv_heads,
        "g": cfg.heads // cfg.kv_heads,
        "c": cfg.head_dim,
        "n": 3,
    }


def _stacked(path: tuple[Any, ...]) -> bool:
    return path_name(path).startswith("layers/")
