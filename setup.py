"""Packaging: what tfnmt needs and which commands it installs.

The ranges here say what the code works with; `tools/constraints.txt` has the one set of versions that is tested.
"""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "tfnmt/__init__.py").read_text(), re.MULTILINE).group(1)
COMMANDS = (
    "train",
    "launch",
    "translate",
    "evaluate",
    "score",
    "average",
    "export",
    "distill",
    "corpus",
    "vocabulary",
    "plan",
    "doctor",
)

setup(
    name="tfnmt",
    version=VERSION,
    description="Distributed training of neural machine translation models with TensorFlow",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["tfnmt", "tfnmt.*", "graphs", "graphs.*"]),
    package_data={"tfnmt.corpora": ["software.txt"]},
    install_requires=[
        "absl-py>=2.3",
        "langcodes>=3.5",
        "matplotlib>=3.10",
        "numpy>=2.1",
        "packaging>=24.0",
        "polib>=1.2",
        "pyyaml>=6.0.1",
        "regex>=2024.4",
        "sacrebleu>=2.5",
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "tensorboard>=2.20,<2.22",
        "tensorflow==2.21.*",
        "tensorflow-text==2.21.*",
        "tqdm>=4.66",
    ],
    extras_require={
        # Runs exported Transformers: tfnmt-export --format=ctranslate2, tfnmt-translate --exported.
        "ctranslate2": ["ctranslate2>=4.5"],
        # Aligns words: tfnmt-export --shortlist. Its build needs Cython to be there already.
        "shortlist": ["cython>=3.0", "eflomal>=2.0"],
        # Horovod compiles against the TensorFlow that is installed: tools/build_horovod does it.
        "horovod": ["horovod==0.28.1"],
        # Experiment trackers: tfnmt-train --report_to=wandb,mlflow.
        "trackers": ["mlflow-skinny>=2.20", "wandb>=0.19"],
        # pytest 9.2 ignores pytest-xdist's groups, by which tests that share a fixture stay together.
        "test": ["coverage>=7.6", "mypy>=1.15", "pytest>=8.3,<9.2", "pytest-xdist>=3.6", "ruff>=0.9"],
    },
    entry_points={"console_scripts": [f"tfnmt-{name} = tfnmt.commands.{name}:main" for name in COMMANDS]},
)
