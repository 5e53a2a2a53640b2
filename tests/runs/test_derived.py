"""Losses of rows of different tokenizers, as bits per byte."""

import numpy as np
import pytest

from cptlaw import runs


def test_losses_in_bits_per_byte_compare_tokenizers(tmp_path):
    """One text of 8 bytes that a model gives 4 nats, as 2 tokens or as 4."""
    path = tmp_path / "runs.csv"
    path.write_text("run,eval,loss,loss_se,bpt\na,web,2.0,0.2,4\nb,web,1.0,0.1,2\n")
    columns = {"bytes_per_token": "bpt"}
    table = runs.read(path, columns, per_byte=True)
    np.testing.assert_allclose(table["loss"], 4 / (8 * np.log(2)))
    np.testing.assert_allclose(table["loss_se"], 0.4 / (8 * np.log(2)))
    assert table.attrs["reading"]["per_byte"] is True and "bits per byte" in " ".join(table.attrs["notes"])
    assert runs.read(path, columns)["loss"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize(("cell", "message"), [("0", "line 2: bytes_per_token 0"), ("", "line 2: bytes_per_token nan")])
def test_bits_per_byte_need_a_number_of_bytes_in_every_row(tmp_path, cell, message):
    path = tmp_path / "runs.csv"
    path.write_text(f"run,eval,loss,bytes_per_token\na,web,2.0,{cell}\nb,web,1.0,2\n")
    with pytest.raises(runs.TableError, match=message):
        runs.read(path, per_byte=True)
    path.write_text("run,eval,loss\na,web,2.0\n")
    with pytest.raises(runs.TableError, match="no column bytes_per_token"):
        runs.read(path, per_byte=True)
