"""Saved fits: what is read is checked, nothing that it names is run, and damage is never taken for a fit."""

import dataclasses
import hashlib
import json
import random
import string

import numpy as np
import pytest
from known_laws import CHINCHILLA

from cptlaw import laws, records
from cptlaw.errors import UserError
from cptlaw.fitting import Fit, saved
from cptlaw.fitting.rows import collect
from cptlaw.fitting.scores import score
from cptlaw.fitting.verdicts import Check, LackOfFit, Tried

MARK = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"
SOURCE = (
    "from cptlaw.laws import Param, law\n"
    "@law([Param('E', low=0, linear=True), Param('B', low=0, linear=True), Param('b', 0.1, 2, (0.1, 1))], ['tokens'])\n"
    "def mine(p, x, xp):\n"
    "    return p.E + p.B * (x.tokens / 1e9) ** -p.b\n"
)
ASKED = {"params": 2e9, "tokens": 30e9}


def by_hand(table, law, params, **changes):
    """A fit that nothing was solved for: parameters as given, three resamples beside them."""
    rows = collect(table, law, tuple(sorted(table["eval"].unique())))
    predicted = law.predict(params, rows.x)
    frame = rows.frame.assign(observed=rows.y, predicted=predicted, held_out=rows.held_out)
    own = score(rows.y, predicted)
    fields = {
        "law": law, "eval": "web", "params": params, "codes": {"starts": {"converged": 8}},
        "samples": {name: np.array([0.99, np.nan, 1.02]) * params[name] for name in law.names},
        "influence": {"r00": dict.fromkeys(law.names, 0.01)},
        "scores": {"fit": {**own, "objective": 0.1},
                   "held_out": {"what": "late tokens", "n": 6, "law": own, "mean": own, "beaten_by": []}},
        "residuals": frame, "ranges": {k: (float(v.min()), float(v.max())) for k, v in rows.x.items()},
        "n_rows": len(frame), "digest": "0" * 64,
        "settings": {"shared": [], "fixed": {}, "resample": "runs", "seed": 0, "bootstrap": 3, "objective": "huber"},
        "warnings": ["a warning"], "versions": {"cptlaw": "1"}, "command": "cptlaw fit",
    }  # fmt: skip
    return Fit(**fields | changes)


@pytest.fixture(scope="module")
def fit(chinchilla_table):
    return by_hand(chinchilla_table, laws.get("chinchilla"), dict(CHINCHILLA))


@pytest.fixture
def file(fit, tmp_path):
    fit.save(tmp_path / "fit.json")
    return tmp_path / "fit.json"


def ask(loaded):
    """What the product asks of a fit."""
    loaded.predict(**ASKED, method="bca")
    loaded.predict(**ASKED)
    loaded.moves()
    json.dumps(loaded.summary(), allow_nan=False)
    loaded.extrapolation(**ASKED)


def test_a_fit_comes_back_as_it_was_saved(fit, file):
    loaded = Fit.load(file)
    ask(loaded)
    for name in (f.name for f in dataclasses.fields(Fit)):
        one, other = getattr(fit, name), getattr(loaded, name)
        if name == "residuals":
            assert one.reset_index(drop=True).equals(other)
        elif name == "samples":
            for key in one:
                np.testing.assert_array_equal(one[key], other[key])
        else:
            assert one == other, name


def test_verdicts_are_kept_and_a_file_from_before_them_still_loads(fit, tmp_path):
    check = Check("settings", 0.004, 9.0, (12.0, 6.0), 0.003, 0.014)
    tried = (
        Tried("web", "another law", "--law additive", (0.03, 0.02), (0.02, 0.01), 20, 5),
        Tried("web", "x", "y", why="z"),
    )
    told = dataclasses.replace(fit, lack_of_fit={"web": LackOfFit((check,), 3, 6, 2.5, ("a note",))}, remedies=tried)
    told.save(tmp_path / "new.json")
    loaded = Fit.load(tmp_path / "new.json")
    assert loaded.lack_of_fit == told.lack_of_fit and loaded.remedies == tried
    assert (
        loaded.rejection[0].startswith("REJECTED: the table rejects the law chinchilla: of web")
        and len(loaded.rejection) == 4
    )
    data = json.loads((tmp_path / "new.json").read_text())
    old = {k: v for k, v in data.items() if k not in ("sha256", *saved.LATER)}
    (tmp_path / "old.json").write_text(json.dumps({**old, "sha256": records.digest(old)}))
    assert Fit.load(tmp_path / "old.json").lack_of_fit == {} and not Fit.load(tmp_path / "old.json").rejection
    data["lack_of_fit"]["web"]["tests"][0]["p"] = 1.5
    (tmp_path / "bad.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"lack_of_fit\.web\.tests\[0\]\.p"):
        Fit.load(tmp_path / "bad.json")


def test_a_file_of_the_version_before_still_loads(fit, file):
    data = json.loads(file.read_text())
    data["version"] = 1
    for name in ("sha256", *saved.SINCE_VERSION_2):
        del data[name]
    data["law"]["sha256"] = hashlib.sha256(b"").hexdigest()
    file.write_text(json.dumps(data))
    assert Fit.load(file).predict(**ASKED).point == fit.predict(**ASKED).point


# ---- code


@pytest.fixture
def own(chinchilla_table, tmp_path):
    """A user's law, whose file marks that it ran, and a saved fit by it."""
    path = tmp_path / "mine.py"
    path.write_text(MARK + SOURCE)
    law = laws.load(f"{path}:mine")
    fit = by_hand(chinchilla_table, law, {"E": 1.7, "B": 1.2, "b": 0.4})
    fit.save(tmp_path / "fit.json")
    (tmp_path / "ran").unlink()
    return tmp_path


def test_opening_a_fit_runs_nothing_that_it_names(own):
    with pytest.raises(UserError, match=r"--law mine\.py:mine"):
        Fit.load(own / "fit.json")
    assert not (own / "ran").exists()
    data = json.loads((own / "fit.json").read_text())
    for name in (f"{own}/mine.py:mine", "mine.py:mine", "os:system", "../mine.py:mine"):
        data["law"]["name"] = name
        (own / "fit.json").write_text(json.dumps(data))
        with pytest.raises(UserError, match="user's law"):
            Fit.load(own / "fit.json")
    assert not (own / "ran").exists()


def test_a_users_law_runs_when_it_is_named_and_its_source_is_the_fitted_one(own):
    other = own / "elsewhere"
    other.mkdir()
    (other / "renamed.py").write_text((own / "mine.py").read_text())
    loaded = Fit.load(own / "fit.json", f"{other}/renamed.py:mine")
    assert float(loaded.predict(tokens=1e9, target="law").point) == pytest.approx(2.9)


@pytest.mark.parametrize("text", ["# a comment more\n" + MARK + SOURCE, MARK + SOURCE.replace("1e9", "1e6")])
def test_a_changed_source_is_refused_before_it_runs(own, text):
    (own / "mine.py").write_text(text)
    with pytest.raises(UserError, match="has changed since the fit"):
        Fit.load(own / "fit.json", f"{own}/mine.py:mine")
    assert not (own / "ran").exists()


def test_another_law_or_file_is_refused(own, chinchilla_table):
    with pytest.raises(UserError, match=r"not by .*other"):
        Fit.load(own / "fit.json", f"{own}/mine.py:other")
    with pytest.raises(UserError, match="no such file"):
        Fit.load(own / "fit.json", f"{own}/absent.py:mine")
    with pytest.raises(UserError, match="another source"):
        Fit.load(own / "fit.json", laws.get("chinchilla"))
    data = json.loads((own / "fit.json").read_text())
    data["law"]["sha256"] = None
    (own / "fit.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="does not say which source"):
        Fit.load(own / "fit.json", f"{own}/mine.py:mine")
    assert not (own / "ran").exists()


def test_a_law_made_in_python_is_given_when_its_fit_is_loaded(chinchilla_table, tmp_path):
    @laws.law([laws.Param("E", low=0, linear=True)], ["tokens"])
    def level(p, x, xp):
        return p.E + 0 * x.tokens

    by_hand(chinchilla_table, level, {"E": 2.5}).save(tmp_path / "fit.json")
    assert float(Fit.load(tmp_path / "fit.json", level).predict(tokens=1e9, target="law").point) == 2.5
    with pytest.raises(UserError, match="law="):
        Fit.load(tmp_path / "fit.json")


def test_the_same_source_is_the_same_law_and_an_edited_one_is_another(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    first = laws.get(f"{path}:mine")
    assert laws.get(f"{path}:mine") is first and len(first.sha256) == 64
    path.write_text(SOURCE.replace("1e9", "1e6"))
    assert laws.get(f"{path}:mine") is not first


# ---- damage


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["params"].update(E=None), "params.E: must be a finite number, not null"),
        (lambda d: d["params"].update(E="1.7"), "params.E: must be a finite number"),
        (lambda d: d["params"].update(E=True), "params.E"),
        (lambda d: d["params"].pop("E"), "incomplete: params.E is missing"),
        (lambda d: d["params"].update(omega=1.0), "params.omega: is not known"),
        (lambda d: d["samples"]["beta"].pop(), "samples: must have the same length"),
        (lambda d: d["samples"]["beta"].append("x"), r"samples.beta\[3\]"),
        (lambda d: d["samples"].pop("beta"), "samples.beta is missing"),
        (lambda d: d["ranges"].update(params=[2, 1]), "ranges.params"),
        (lambda d: d["ranges"].update(params=[1]), "ranges.params"),
        (lambda d: d["ranges"].pop("tokens"), "ranges.tokens is missing"),
        (lambda d: d["residuals"]["observed"].pop(), "residuals.observed: has 29 rows"),
        (lambda d: d["residuals"]["held_out"].__setitem__(0, 0), r"residuals.held_out\[0\]: must be true or false"),
        (lambda d: d["residuals"]["predicted"].__setitem__(3, None), r"residuals.predicted\[3\]"),
        (lambda d: d["residuals"].pop("run"), "residuals.run is missing"),
        (lambda d: d.update(n_rows=3), "n_rows: is 3, and 30 rows are fitted"),
        (lambda d: d.update(eval=[]), "eval: must name one corpus"),
        (lambda d: d.update(eval=7), "eval"),
        (lambda d: d["settings"].pop("seed"), "settings.seed: must be a whole number"),
        (lambda d: d["settings"].update(seed="0"), "settings.seed"),
        (lambda d: d["settings"].update(reading=[]), "settings.reading"),
        (lambda d: d["settings"].update(reading={"losses": {"a": 1}}), "settings.reading.losses.a"),
        (lambda d: d["settings"].update(reading={"where": 3}), "settings.reading.where"),
        (lambda d: d["settings"].update(reading={"tokens_per_step": "8"}), "settings.reading.tokens_per_step"),
        (lambda d: d["settings"].update(reading={"run": "x"}), "settings.reading.run: is not known"),
        (lambda d: d["codes"]["starts"].update(converged=-1), "codes.starts.converged"),
        (lambda d: d["influence"]["r00"].update(omega=1), "influence.r00: names omega"),
        (lambda d: d["scores"]["fit"].pop("rms_log"), "scores.fit.rms_log"),
        (lambda d: d["scores"]["held_out"].pop("beaten_by"), "scores.held_out.beaten_by"),
        (lambda d: d["law"].update(options={"tied": True}), "law: .*no option 'tied'|law.options"),
        (lambda d: d["law"].pop("sha256"), "law.sha256 is missing"),
        (lambda d: d.update(unmoved=["params"]), "unmoved"),
        (lambda d: d.update(rests={"params": ["omega"]}), "rests"),
        (lambda d: d.update(warnings="none"), "warnings: must be a list"),
        (lambda d: d.update(extra=1), "extra: is not known"),
        (lambda d: d.pop("digest"), "incomplete: digest is missing"),
        (lambda d: d["params"].update(E=1.8), "does not match its sha256"),
        (lambda d: d["samples"]["E"].__setitem__(0, 1.0), "does not match its sha256"),
    ],
)
def test_damage_is_named_by_file_and_field(file, change, words):
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(UserError, match=words) as error:
        Fit.load(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"[1]", b"null", b"[" * 100_000, b'{"format": "cptlaw.fit", "version": 2}',
     b'{"format": "cptlaw.fit", "version": true}', b'{"format": "cptlaw.fit", "version": [1]}', b"NaN"],
)  # fmt: skip
def test_what_is_no_fit_is_refused(tmp_path, content):
    (tmp_path / "fit.json").write_bytes(content)
    with pytest.raises(UserError, match=r"fit\.json"):
        Fit.load(tmp_path / "fit.json")


def test_a_number_that_json_has_not_is_refused(file):
    file.write_text(file.read_text().replace('"E": 1.7', '"E": Infinity'))
    with pytest.raises(UserError, match="Infinity is no JSON number"):
        Fit.load(file)


def test_flipped_bytes_are_never_taken_for_the_fit(file):
    """Any change of the content is refused; a change that leaves the content as it is gives the same fit."""
    rng, whole = random.Random(0), file.read_bytes()
    truth = json.loads(whole)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            at = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del data[at : at + rng.choice((1, 3, 50))]
            elif kind == 2:
                data[at:at] = rng.choice((b"0", b'"', b",", b"}", b"]", b"null", b"1e9", b"-"))
            else:
                data[at] = rng.choice(string.printable.encode())
        file.write_bytes(data)
        try:
            ask(Fit.load(file))
        except UserError:
            continue
        assert json.loads(data) == truth


def mutate(rng, value):
    """One random change somewhere in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        kind = rng.randrange(6)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return {(f"{k}x" if k == key else k): v for k, v in value.items()}
        return {**value, key: mutate(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        kind = rng.randrange(6)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value, value[at]]
        return [*value[:at], mutate(rng, value[at]), *value[at + 1 :]]
    return rng.choice(
        (None, True, -1, 0, 1, 2, 1e400, -3.5, 10**30, 1e308, "", "x", "web", [], {}, [1], {"a": 1}, [[]])
    )


@pytest.mark.parametrize("version", [saved.VERSION, saved.WITHOUT_DIGEST])
def test_changed_values_never_end_in_a_traceback(file, version):
    """With a digest no change is accepted. Without one, what is accepted answers every question, or says why not."""
    rng, truth = random.Random(version), json.loads(file.read_text())
    if version == saved.WITHOUT_DIGEST:
        truth = {k: v for k, v in truth.items() if k not in ("sha256", *saved.SINCE_VERSION_2)} | {"version": version}
    refused = 0
    for _ in range(400):
        data = mutate(rng, truth)
        file.write_text(json.dumps(data))
        try:
            ask(Fit.load(file))
        except UserError as error:
            refused += 1
            assert str(error)
            continue
        assert version == saved.WITHOUT_DIGEST or data == truth
    assert refused > (380 if version == saved.VERSION else 200)
