"""Fields of the config under the names that they had in version 0.1."""

import warnings
from collections.abc import Mapping
from typing import Any

import ml_collections
from ml_collections import config_dict

from fedinv_jax.audit import optional

RENAMED: dict[str, tuple[str, ...]] = {
    'block': ('victims_per_call',),
    'by_size': ('weight_by_num_examples',),
    'core': ('k_core',),
    'dense': ('max_dense_candidates',),
    'fresh_negatives': ('resample_negatives',),
    'label_gain': ('label_rate_scale',),
    'lanes': ('parallel_victims',),
    'levels': ('quantization_levels',),
    'per_positive': ('negatives_per_positive',),
    'precision': ('dtype',),
    'private_rate': ('private_learning_rate',),
    'pseudo': ('pseudo_rate',),
    'random': ('random_k_share',),
    'start': ('warm_start',),
    'threshold': ('rating_threshold', 'stop_below'),
    'top': ('top_k_share',),
}
"""By the name of a field in version 0.1, its name now; of several, the one that a section has."""


class Config(ml_collections.ConfigDict):
    """A config whose fields also answer to their names of version 0.1, with a `FutureWarning`.

    Example:
        >>> config = Config({'data': {'k_core': 0}})
        >>> with warnings.catch_warnings(action='ignore'):
        ...     config.data.core = 5
        >>> config.data.k_core
        5
    """

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(self._name(key))

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping | ml_collections.ConfigDict) and not isinstance(value, Config):
            value = Config(value)  # a section too
        super().__setitem__(self._name(key), value)

    def get_type(self, key: str) -> Any:
        """The type of a field's value: what a flag of that name takes, None too where it may be."""
        name = self._name(key)
        kind = super().get_type(name)
        field = dict(self.items(preserve_field_references=True))[name]
        return optional.flag_type(kind) if isinstance(field, config_dict.FieldReference) else kind

    def _name(self, key: Any) -> Any:
        for name in RENAMED.get(key, ()) if key not in self else ():
            if name in self:
                warnings.warn(f'The field {key} is now {name}.', FutureWarning, stacklevel=4)
                return name
        return key


def upgrade(config: Mapping[str, Any], like: ml_collections.ConfigDict) -> dict[str, Any]:
    """A config as nested dicts, its fields under the names that they have now.

    Args:
        config: of a work directory, of this version or of 0.1.
        like: a config of this version, which has the names.

    Example:
        >>> upgrade({'data': {'core': 5}}, Config({'data': {'k_core': 0}}))
        {'data': {'k_core': 5}}
    """
    names = {
        old: next((new for new in RENAMED.get(old, ()) if old not in like and new in like), old)
        for old in config
    }
    return {
        names[old]: upgrade(value, like.get(names[old], ml_collections.ConfigDict()))
        if isinstance(value, Mapping)
        else value
        for old, value in config.items()
    }
