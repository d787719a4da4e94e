"""Names are looked up with the nearest ones told; no number passes that lies in no range."""

import pytest

from fedinv_jax import _validate, client, compress, losses, models, observe, perturb, regularizers
from fedinv_jax.attack import gauss_newton, priors, relax
from fedinv_jax.data import interactions, synthetic

MODEL = models.matrix_factorization(num_items=5, dim=2)


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


# Failed on the mutants `value < least` for `not value >= least`, and without `isfinite`.
@pytest.mark.parametrize(
    ('value', 'bounds', 'message'),
    [
        (-0.5, {}, r'Expected x=-0\.5 >= 0\.$'),
        (float('nan'), {}, r'Expected x=nan >= 0\.$'),
        (float('inf'), {}, r'Expected x=inf >= 0 and finite\.$'),
        (float('nan'), {'least': 0.5, 'most': 1}, r'Expected x=nan in \[0\.5, 1\]\.$'),
        (2, {'most': 1}, r'Expected x=2 in \[0\.0, 1\]\.$'),
        (0, {'above': True}, r'Expected x=0 > 0\.$'),
        (float('nan'), {'above': True}, r'Expected x=nan > 0\.$'),
    ],
)
def test_numbers_out_of_range(value, bounds, message):
    with pytest.raises(ValueError, match=message):
        _validate.check_range('x', value, **bounds)


def test_numbers_in_range():
    _validate.check_range('x', 0)
    _validate.check_range('x', 1, 1, 1)
    _validate.check_range('x', 1e-9, above=True)
    _validate.check_finite('x', -1e300)


NAN, INF = float('nan'), float('inf')


# What a range check must not let pass, of every factory that takes a number.
@pytest.mark.parametrize(
    'make',
    [
        lambda x: client.gradient_step(MODEL, losses.bce, x),
        lambda x: regularizers.item_drift(x),
        lambda x: observe.add_gaussian_noise(x),
        lambda x: relax.sigmoid(x),
        lambda x: priors.norm_prior(x),
        lambda x: gauss_newton.gauss_newton(x),
        lambda x: models.matrix_factorization(5, 2, scale=x),
        lambda x: models.ncf(5, 2, scale=x),
        lambda x: synthetic.generate(popularity_exponent=x),
        lambda x: synthetic.generate(median_activity=x),
        lambda x: synthetic.generate(activity_sigma=x),
        lambda x: synthetic.generate(taste_strength=x),
        lambda x: interactions.binarize(synthetic.generate(num_users=2), x),
    ],
)
@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_factories_refuse_numbers_that_are_not_finite(make, value):
    with pytest.raises(ValueError, match=f'={value} '):
        make(value)


# Infinity has a meaning there, and is documented: no clipping, labels as they are.
@pytest.mark.parametrize(
    'make',
    [
        observe.clip_by_global_norm,
        perturb.randomized_response,
        perturb.add_pseudo_interactions,
        compress.top_k,
        compress.random_k,
    ],
)
def test_other_factories_refuse_nan(make):
    with pytest.raises(ValueError, match='=nan '):
        make(NAN)
