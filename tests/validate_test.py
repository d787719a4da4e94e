"""Names are looked up with the nearest ones told."""

import pytest

from fedinv_jax import _validate


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('adm', r"Unknown x\.name='adm'\. Did you mean 'adam' or .* Choices: 'adabelief', "),
        ('zzzzzz', r"Unknown x\.name='zzzzzz'\. Choices: "),
    ],
)
def test_lookup(name, message):
    choices = {'adam': 1, 'adabelief': 2, 'adan': 3}
    with pytest.raises(ValueError, match=message):
        _validate.lookup('x.name', name, choices)
    assert _validate.lookup('x.name', 'adam', choices) == 1
    assert _validate.lookup('x.name', 'adam', tuple(choices)) == 'adam'
