"""The model beside `transformers`, where that is installed (the extra `parity`); else only its golden logits are held.

python -m venv parity && parity/bin/pip install -e '.[parity]' flax safetensors pytest
parity/bin/python -m pytest -s tests/models/test_parity.py
"""

import jax
import numpy as np
import pytest
from tiny_models import FAMILIES, LENGTHS, TOKENS, documents_logits, write_pretrained

pytest.importorskip("torch")
pytest.importorskip("transformers")

from cptlaw.models import hf, transformer
from cptlaw.models.sharding import Layout, make_mesh

ONE = Layout(make_mesh(data=1, devices=jax.devices()[:1]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("default")
def test_logits_equal_there_and_back(family, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    write_pretrained(FAMILIES[family], theirs)
    expected = documents_logits(theirs)

    cfg, params = hf.load(theirs, ONE)
    segments_T = np.repeat(np.arange(1, len(LENGTHS) + 1), LENGTHS)
    positions_T = np.concatenate([np.arange(n) for n in LENGTHS])
    forward = jax.jit(transformer.apply, static_argnums=1)
    packed = np.asarray(forward(params, cfg, TOKENS[None], segments_T[None], positions_T[None]))[0]
    alone = []
    for part in np.split(TOKENS, np.cumsum(LENGTHS)[:-1]):
        alone.append(forward(params, cfg, part[None], np.ones_like(part)[None], np.arange(len(part))[None])[0])

    hf.save(ours, cfg, params)
    again = documents_logits(ours)
    for name, got in {"packed": packed, "unpacked": np.concatenate(alone), "reloaded": again}.items():
        print(f"{family}, {name}: largest difference {np.abs(got - expected).max():.1e}")
        np.testing.assert_allclose(got, expected, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(again, expected, atol=1e-6)
