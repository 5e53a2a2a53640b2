import types

import pytest

from cptlaw.errors import UserError
from cptlaw.execution.job import spread


def test_a_run_without_a_mesh_has_as_many_devices_of_every_process():
    devices = [types.SimpleNamespace(id=i, process_index=i // 4) for i in range(8)]
    assert [d.id for d in spread(devices, 8)] == list(range(8))
    assert [d.id for d in spread(devices, 4)] == [0, 1, 4, 5], "else the second process would have nothing to run"
    assert [d.id for d in spread(devices[:4], 2)] == [0, 1]
    with pytest.raises(UserError, match=r"1 devices at most divide both, .* choose multiples of 8"):
        spread(devices, 1)
