"""What pyproject.toml cannot say: `configs/` is part of the package, one field has the URL."""

import pathlib
import tomllib

from setuptools import find_packages, setup

PROJECT = tomllib.loads((pathlib.Path(__file__).parent / 'pyproject.toml').read_text())
URL = PROJECT['tool']['fedinv_jax']['repository']

setup(
    packages=[*find_packages(include=['fedinv_jax*']), 'fedinv_jax.configs'],
    package_dir={'fedinv_jax.configs': 'configs'},
    project_urls={'Repository': URL} if URL else {},
)
