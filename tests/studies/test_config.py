"""A config says what it means, or an error names the field."""

import pandas as pd
import pytest

from cptlaw.fields import ConfigError
from cptlaw.studies import config as config_lib


def test_a_config_becomes_typed_and_round_trips(make_config):
    study = config_lib.parse(make_config())
    assert study.cpt.tokens == 256
    assert study.grid["small"].domain_shares == (0.0, 0.5)
    assert study.model_fields("large")["d_model"] == 16
    assert config_lib.parse(make_config()).to_json() == study.to_json()


def test_one_kind_of_weights_is_fitted(make_config):
    table = pd.DataFrame({"loss": [3.0, 2.9, 2.8, 2.7], "ema": [0.0, 0.9, 0.0, 0.9]}, index=[4, 5, 6, 7])
    for weights, losses in [("last", [3.0, 2.8]), ("average", [2.9, 2.7])]:
        study = config_lib.parse(make_config(optimizer={"ema": 0.9}, fit={"weights": weights}))
        rows = study.fit.rows(table)
        assert rows["loss"].tolist() == losses and rows.index.tolist() == [0, 1]
        assert study.fit.rows(table[["loss"]]).equals(table[["loss"]]), "a table of runs without an average"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cpt__peek_lr": 1e-2}, r"config\.cpt\.peek_lr: no such field; did you mean 'peak_lr'"),
        ({"grid__small__domain_shares": (0.0, 25)}, r"config\.grid\.small\.domain_shares: .* not 25"),
        ({"domains": ("law",)}, r"config\.domains: no corpus 'law' in config\.corpora, which has code, prose"),
        ({"domains": ("prose",)}, r"config\.domains: name at least one corpus that is not the general one"),
        (
            {"cpt__tokens": 270},
            r"config\.cpt\.tokens: 270 is not a whole number of steps of 64 tokens .* nearest is 256",
        ),
        ({"eval_tokens": (256, 128)}, r"config\.eval_tokens: give increasing token counts"),
        ({"eval_tokens": (64, 128)}, r"config\.eval_tokens: the last, 128, must be config\.cpt\.tokens, 256"),
        ({"held_out__size": "huge"}, r"config\.held_out\.size: 'huge' is not in config\.grid"),
        ({"eval_tokens": ("many",)}, r"config\.eval_tokens\[0\]: expected int, got 'many'"),
        ({"question": {"tolerance": 3.0}}, r"config\.question\.tolerance: .* such as 0\.03 for 3%"),
        ({"question": {"confidence": 90}}, r"config\.question\.confidence: .* such as 0\.9 for 90%"),
        ({"mesh": {"model": 2}}, r"config\.mesh\.model: no such axis; data, fsdp and tensor"),
        ({"vocabulary": {"kind": "file"}}, r"config\.vocabulary\.path: give it with kind 'file'"),
        ({"vocabulary": {"path": "model"}}, r"config\.vocabulary\.path: .* with no other"),
        ({"grid__huge": {"domain_shares": ()}}, r"config\.grid\.huge: no such size"),
        ({"grid__more": {"domain_shares": (), "size": "smal"}}, r"config\.grid\.more\.size: no such .*mean 'small'"),
        ({"first": ("smal",)}, r"config\.first: no part 'smal' in config\.grid, which has .*mean 'small'"),
        ({"grid__small__domains": ("cod",)}, r"grid\.small\.domains: no domain 'cod' in config\.domains.*mean 'code'"),
        ({"grid__small__eval_tokens": (64, 100)}, r"grid\.small: with it, config\.cpt\.tokens: 100 is not a whole"),
        ({"grid__small__branch_cooldown": 1.5}, r"grid\.small\.branch_cooldown: a share of the tokens"),
        ({"grid__small__base_seeds": (1, 1)}, r"grid\.small\.base_seeds: each seed once"),
    ],
)
def test_a_bad_field_is_named_with_its_remedy(make_config, change, message):
    with pytest.raises(ConfigError, match=message):
        config_lib.parse(make_config(**change))


def test_a_missing_field_is_named(make_config):
    config = make_config()
    del config["cpt"]
    with pytest.raises(ConfigError, match=r"config\.cpt: missing"):
        config_lib.parse(config)
