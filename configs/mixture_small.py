"""A mixture of five corpora: prose, code, phenotypes, molecules and licences; a sixth is only evaluated.

cptlaw study configs/mixture_small.py --workdir runs/mixture_small        grid, laws, the mix, three runs of it, report
python -m launch.sweep --config configs/mixture_small.py --workdir runs/mixture_small       its grid alone
"""

from ml_collections import ConfigDict

from cptlaw.configs import demo

DOMAINS = ("code", "biomedical", "smiles", "licences")


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.name = "mixture_small"
    with config.unlocked():
        config.corpora = {
            "prose": {"source": "recipe:wikitext2"},
            "code": {"source": "recipe:python_stdlib"},
            "biomedical": {"source": "recipe:biomedical"},
            "smiles": {"source": "recipe:smiles", "max_bytes": 12_000_000},
            "licences": {"source": "recipe:licences"},
            "api_docs": {"source": "recipe:api_docs", "max_bytes": 4_000_000},
        }
        config.domains = DOMAINS
        config.evaluated = ("api_docs",)
        # The first mix of a space-filling design is the middle, here equal shares, and a smaller design is the
        # beginning of a larger one: the larger sizes train some of the small one's mixes.
        design = {"design": "space_filling", "floors": {"prose": 0.1}, "caps": dict.fromkeys(DOMAINS, 0.7)}
        config.grid = {
            "small": {"simplex": {**design, "count": 24}, "repeat_mixes": 2, "repeat_seeds": (1, 2)},
            "medium": {"simplex": {**design, "count": 16}},
            "large": {"simplex": {**design, "count": 8}, "repeat_mixes": 1, "repeat_seeds": (1, 2)},
        }
        config.question = {
            "kind": "mixture",
            "weights": dict.fromkeys(DOMAINS, 1.0),
            "tolerances": {"prose": 0.03},
        }
        config.confirm_runs = 3
    return config
