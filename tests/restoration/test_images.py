import numpy as np
import pytest
from PIL import Image

from cptlaw.errors import UserError
from cptlaw.fields import ConfigError
from cptlaw.restoration import probe
from cptlaw.restoration.batches import Crops, Pictures, patches
from cptlaw.restoration.images import PACKAGES, ImageError, Picture, Source


def save(path, seed=0, size=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(array).save(path)
    return array / 255


def test_a_folder_of_images_is_split_by_image(tmp_path):
    arrays = [save(tmp_path / "sub" / f"image{i}.png", i) for i in range(6)]
    source = Source("folder", str(tmp_path), held_out=(), held_out_share=0.3)
    pictures = source.read()
    np.testing.assert_allclose(pictures[2].clean, arrays[2], atol=1e-6)
    train, test = source.split(pictures)
    assert len(test) == 2 and not {p.group for p in train} & {p.group for p in test}
    assert [p.group for p in source.split(pictures[::-1])[1]] == [p.group for p in test[::-1]]
    small = Source("folder", str(tmp_path), held_out=("image1",), side=8).read()
    assert small[0].clean.shape == (6, 8, 3)
    np.testing.assert_allclose(small[0].clean[0, 0], arrays[0][:2, :2].mean((0, 1)), atol=1e-6)


def test_pairs_carry_their_own_degradation(tmp_path):
    for kind in ("fog", "rain"):
        for side in ("degraded", "clean"):
            save(tmp_path / kind / side / "a.png", len(kind + side), (20, 20))
            save(tmp_path / kind / side / f"{kind}.png", 1, (20, 20))
    source = Source("pairs", str(tmp_path), held_out=("a",))
    pictures = source.read()
    assert [(p.group, p.kind) for p in pictures] == [("a", "fog"), ("fog", "fog"), ("a", "rain"), ("rain", "rain")]
    test = source.split(pictures)[1]
    assert [p.group for p in test] == ["a", "a"]
    one = patches(Pictures(test, ("fog", "rain"), seed=0), 12, 1, seed=0)
    assert list(one.labels) == [0, 1] and list(one.images) == [0, 1]
    assert not np.allclose(one.degraded, one.clean)
    with pytest.raises(UserError, match="kinds: no image is of type 'snow'"):
        Pictures(test, ("fog", "snow"), seed=0)
    (tmp_path / "rain" / "clean" / "a.png").unlink()
    with pytest.raises(ImageError, match="no image of this name in"):
        source.read()


def test_the_stereo_pair_is_one_scene():
    groups = [group for _, file, group in PACKAGES if "motorcycle" in file]
    assert groups == ["motorcycle"] * 2


def test_photographs_of_packages():
    pytest.importorskip("skimage"), pytest.importorskip("sklearn")
    source = Source(side=64)
    train, test = source.split(source.read())
    assert sorted(p.group for p in test) == ["china", "coffee"] and len(train) == len(PACKAGES) - 2
    assert all(p.clean.shape[-1] == 3 and max(p.clean.shape) <= 64 for p in train)


def test_bad_sources_are_named(tmp_path):
    for field, values in (("path", {"kind": "folder"}), ("path", {"path": "x"}), ("kind", {"kind": "zip"})):
        with pytest.raises(ConfigError, match=f"images.{field}"):
            Source(**values)
    with pytest.raises(ConfigError, match="no such folder"):
        Source("folder", str(tmp_path / "none"))
    with pytest.raises(ImageError, match="no images"):
        Source("folder", str(tmp_path)).read()
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ImageError, match=r"a\.png: no readable image"):
        Source("folder", str(tmp_path)).read()
    (tmp_path / "a.png").unlink()
    save(tmp_path / "b.png")
    source = Source("folder", str(tmp_path), held_out=("c",))
    with pytest.raises(ConfigError, match="held_out: no image 'c'; there are b"):
        source.split(source.read())
    with pytest.raises(UserError, match="crop 64: larger than"):
        Crops(Pictures(source.read(), ("noise",), 0), 1, 64, 0)


def test_a_builder_of_tensorflow_datasets(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    rows = [{"hr": np.full((4, 4, 3), 51 * i, np.uint8)} for i in range(3)]
    monkeypatch.setattr(tfds, "load", lambda name, split, shuffle_files: {"div2k": rows}[name])
    monkeypatch.setattr(tfds, "as_numpy", lambda rows: rows)
    pictures = Source("tfds", "div2k", feature="hr", most=2).read()
    assert [p.clean.mean() for p in pictures] == pytest.approx([0, 0.2])
    with pytest.raises(ImageError, match="feature 'image' is no image; it has hr"):
        Source("tfds", "div2k").read()
    with pytest.raises(ImageError, match="tfds:div3k: cannot be read"):
        Source("tfds", "div3k").read()


def test_the_probe_splits_by_image_and_has_its_controls():
    rng = np.random.default_rng(0)
    labels, groups = np.tile([0, 1], 30), np.repeat(np.arange(6), 10)
    told = labels[:, None] + 0.01 * rng.normal(size=(60, 3))
    assert probe.accuracy(told, labels, groups) == 1
    # Features that tell the image alone would be right in half of the cases, had it been seen.
    images = rng.random((60, 4, 4, 3)) * 0.1 + labels[:, None, None, None]
    scores = probe.table({"random": rng.normal(size=(60, 8))}, images, labels, groups)
    assert scores["raw pixels"] == scores["means and deviations"] == 1 and scores["chance"] == 0.5
    assert 0.2 < scores["random"] < 0.8
    with pytest.raises(UserError, match="needs three"):
        probe.accuracy(told[:20], labels[:20], groups[:20])


def test_patches_of_types_are_of_the_same_places(pictures):
    held = patches(Pictures([*pictures, Picture("x", "x", pictures[0].clean[::-1])], ("noise", "haze"), 0), 12, 2, 0)
    assert held.clean.shape == (12, 12, 12, 3)
    np.testing.assert_array_equal(held.clean[held.labels == 0], held.clean[held.labels == 1])
