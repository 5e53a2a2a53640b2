"""`auto`: the law that predicted the table's own later rows, its weights, and where it loses."""

import numpy as np
import pandas as pd
import pytest

from cptlaw.errors import UserError
from cptlaw.fitting import choose as auto


def test_candidates_read_what_the_table_has(dcpt_table, chinchilla_table):
    assert "dcpt:free_sign=true" in auto.candidates(dcpt_table)
    assert auto.candidates(chinchilla_table) == ["chinchilla"]
    assert auto.candidates(chinchilla_table.assign(unique_tokens=np.arange(30) + 1e9)) == ["repetition", "chinchilla"]
    assert auto.candidates(pd.DataFrame({"w_a": [0.1, 0.2], "w_b": [0.5, 0.4], "w_c": [0.4, 0.4]})) == ["mixing"]
    with pytest.raises(UserError, match="neither tokens nor shares"):
        auto.candidates(chinchilla_table.assign(tokens=1e9))


def test_the_law_that_made_the_table_is_chosen(dcpt_table):
    few = dcpt_table[dcpt_table["tokens"].isin(np.unique(dcpt_table["tokens"])[::2])]  # a checkpoint costs a second
    found = auto.choose(few, "code", ["dcpt_l5", "dcpt:free_sign=true"])
    assert found.law == "dcpt:free_sign=true" and sum(found.weights.values()) == pytest.approx(1, abs=1e-3)
    assert next(iter(found.weights)) == found.law and set(found.weights) == {"dcpt_l5", found.law}
    methods = set(found.table["method"])
    assert {f"process on {found.law}", found.law, "ridge", "gaussian_process"} <= methods
    assert {"size", "tokens", "both"} <= set(found.table["kind"])
    own = found.table[found.table["method"] == f"process on {found.law}"]
    assert (own["error"] < 0.01).all() and (own["rows"] > 0).all() and (own["questions"] >= 1).all()


def test_where_auto_loses_is_said(dcpt_table):
    lines = pd.DataFrame(
        [
            {
                "method": "process on a",
                "law": "a",
                "error": 0.02,
                "log_score": 2.0,
                "kind": "size",
                "what": "q",
                "rows": 3,
                "runs": 2,
            },
            {"method": "a", "law": "a", "error": 0.03, "kind": "size", "what": "q", "rows": 3, "runs": 2},
            {"method": "ridge", "error": 0.01, "kind": "size", "what": "q", "rows": 3, "runs": 2},
        ]
    )
    found = auto._chosen(lines, ["a"], {})
    assert found.lost == ["size: ridge erred by 1.00%, auto by 2.00% (3 rows)"]


def test_a_table_too_short_to_ask_says_so(chinchilla_table):
    found = auto.choose(chinchilla_table.iloc[:7], "web", ["repetition", "chinchilla"])
    assert found.law == "chinchilla" and "too short" in found.lost[0] and "repetition" in found.refused
    with pytest.raises(UserError, match="no law could be fitted"):
        auto.choose(chinchilla_table.iloc[[0, 7, 14]], "web")


def test_log_density_is_student_s():
    from scipy import stats

    z = np.linspace(-5, 5, 7)
    np.testing.assert_allclose(auto.log_density(z, 6.0), stats.t.logpdf(z, 6))
