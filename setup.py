"""Packaging of CAMAC-DRA; ``requirements.txt`` has the exact versions it is tested with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "camac_dra" / "__init__.py").read_text(), re.MULTILINE
)[1]

PETTINGZOO = ["pettingzoo>=1.25"]
TEST = [
    "pytest>=9",
    "pytest-timeout>=2.4",
    "pytest-cov>=7",
    "hypothesis>=6.100",
    "import-linter>=2.5",
    "mpe2>=1.1",  # others' environments to train on; brings pygame-ce, which those of PettingZoo need too
    *PETTINGZOO,
]
DEV = [*TEST, "ruff>=0.15", "mypy>=1.18", "types-PyYAML", "pandas-stubs"]

setup(
    name="camac-dra",
    version=VERSION,
    description="Cooperating agents that share scarce resources: training and coordination on Ray",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="Mudd Sair Sharif and contributors",
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["camac_dra", "camac_dra.*"]),
    package_data={
        "camac_dra": ["py.typed", "**/*.csv", "**/*.csv.gz", "**/*.json", "**/*.md", "**/LICENSE*"]
    },
    # The oldest Python is that of numpy 2.4, pandas 3 and scipy 1.17; the newest is the last one of Ray.
    python_requires=">=3.11,!=3.14.1,<3.15",
    install_requires=[
        # RLlib's insides are leant on (training/, contract tests); other versions may differ there.
        "ray[rllib,default]==2.60.0",
        "torch>=2.9",
        "numpy>=2.3",
        "scipy>=1.16",
        "pandas>=3.0",
        "networkx>=3.5",
        "h5py>=3.14",
        "pydantic>=2.12,<3",
        "pyyaml>=6.0",
        "gymnasium==1.2.2",
        "tensorboard>=2.20",
        "matplotlib>=3.10",
        "rich>=14",
    ],
    extras_require={"pettingzoo": PETTINGZOO, "test": TEST, "dev": DEV},
    entry_points={"console_scripts": ["camac-dra = camac_dra.run:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    zip_safe=False,
)
