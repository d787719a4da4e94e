"""The channel of a client, and what an attacker takes it for."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedinv_jax.audit import attackers
from fedinv_jax.audit import channel as channel_lib
from tests.audit.helpers import small_config


# 0.2 of the batch are interactions. Failed on: rates of the defence that blind attackers know.
@pytest.mark.parametrize(
    ('fields', 'share'),
    [
        ({}, 0.2),
        ({'label_epsilon': 0.0}, 0.5),
        ({'pseudo_rate': 0.5}, 0.6),
        ({'label_epsilon': float(np.log(3)), 'pseudo_rate': 0.5}, 0.675),
    ],
)
def test_the_share_that_trains_as_interactions(fields, share):
    config = small_config()
    config.observation.update(fields)
    assert channel_lib.trained_share(config, 0.2) == pytest.approx(share)
    assert channel_lib.trained_share(config, 0.2, adaptive=False) == 0.2


# Failed on: entries that the noise fills, read as those that the client kept.
def test_behind_noise_nobody_reads_off_what_was_kept():
    upload = {'items': jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    seen = {'items': jnp.array([[0.0, 0.0], [0.0, 3.0]])}
    config = small_config()
    config.observation.update({'top_k_share': 0.25, 'uploaded': ('items',)})

    def predicted():
        channel = attackers.make_observation(config, ('items',))
        return channel.predict(upload, seen, channel.init(upload))[0]['items']

    np.testing.assert_array_equal(predicted(), seen['items'])
    config.observation.noise = 0.1
    np.testing.assert_array_equal(predicted(), upload['items'])


# Failed on: clipping forgotten behind any noise, which made it a defence.
def test_faint_noise_hides_no_clipping():
    upload = {'items': jnp.array([[3.0, 0.0], [0.0, 4.0]])}
    config = small_config()
    config.observation.update({'clip': 1.0, 'uploaded': ('items',)})
    for noise, factor in ((0.0, 0.2), (1e-6, 0.2), (0.1, 1.0)):
        config.observation.noise = noise
        channel = attackers.make_observation(config, ('items',))
        predicted = channel.predict(upload, upload, channel.init(upload))[0]['items']
        np.testing.assert_allclose(predicted, factor * upload['items'], rtol=1e-6)
