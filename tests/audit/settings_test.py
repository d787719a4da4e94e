"""The points of the axes of a config, each once."""

from fedinv_jax.audit import config as config_lib
from fedinv_jax.audit import registry
from fedinv_jax.audit import settings as settings_lib


# Failed on the mutants that keep the interval at T = 1 and the hypothesis of a baseline.
def test_settings_are_the_product_without_duplicates():
    config = config_lib.default_config()
    config.observation.seen = ('scorer', 'items+scorer')
    config.dynamics.name = ('free', 'unrolled')
    config.attack.update({'num_gradients': (1, 2, 4), 'first_round': (0, 7), 'interval': (1, 10)})
    found = settings_lib.settings(config)
    assert len(set(found)) == len(found)
    # T = 1 has no interval, T = 2 and 4 have two; baselines have no hypothesis.
    lengths = 1 + 2 * 2
    assert len(found) == 2 * 2 * lengths * (2 + 1 + 1)
    assert {s.interval for s in found if s.num_gradients == 1} == {None}
    assert {s.interval for s in found if s.num_gradients > 1} == {1, 10}
    assert {s.dynamics for s in found if s.attack == 'mgradinv'} == {'free', 'unrolled'}
    assert {s.dynamics for s in found if s.attack != 'mgradinv'} == {None}
    assert {s.seen for s in found} == {('scorer',), ('items', 'scorer')}


# Failed on the mutant that crosses them with the hypotheses.
def test_exact_attacks_have_one_hypothesis():
    config = config_lib.default_config()
    config.dynamics.name = ('unrolled', 'static')
    config.attack.update({'name': ('exact', 'sign', 'mgradinv'), 'num_gradients': (1, 2)})
    config.attack.dtype = 'float32'
    found = [(s.attack, s.dynamics) for s in settings_lib.settings(config) if s.num_gradients == 2]
    assert found == [
        ('exact', 'free'),
        ('sign', 'free'),
        ('mgradinv', 'unrolled'),
        ('mgradinv', 'static'),
    ]
    exact = ('exact', 'sign', 'spectral', 'summed', 'unmix')
    for name in registry.ATTACKS:
        assert settings_lib.dtype(config, name) == ('float64' if name in exact else 'float32')


# Failed on: placebos of the baselines, whose answers use no upload.
def test_a_placebo_of_each_attack_that_reads_uploads():
    config = config_lib.default_config()
    config.attack.update({'name': ('exact', 'popularity', 'mgradinv'), 'num_gradients': (2,)})
    assert not any(setting.placebo for setting in settings_lib.settings(config))
    config.attack.placebo = True
    found = [(setting.attack, setting.placebo) for setting in settings_lib.settings(config)]
    assert found == [
        ('exact', False),
        ('exact', True),
        ('popularity', False),
        ('mgradinv', False),
        ('mgradinv', True),
    ]


def test_rounds_of_a_setting():
    setting = settings_lib.Setting('mgradinv', 'free', 3, 5, 10, ('scorer',))
    assert setting.rounds == [5, 15, 25]
    assert setting._replace(num_gradients=1, interval=None).rounds == [5]


# Failed on: the same rows twice, of attackers who use nothing that a blind one does not know.
def test_attacks_on_rows_alone_are_run_once():
    config = config_lib.default_config()
    config.observation.noise = 0.1
    config.attack.update({'name': ('sign', 'spectral', 'summed'), 'adaptive': (True, False)})
    found = {(setting.attack, setting.adaptive) for setting in settings_lib.settings(config)}
    assert found == {('sign', True), ('sign', False), ('spectral', True), ('summed', True)}
    # A blind one takes the public share for the one that trains, and missing rows for any.
    for defence in (
        {'pseudo_rate': 0.5, 'top_k_share': 1.0},
        {'pseudo_rate': 0.0, 'top_k_share': 0.5},
    ):
        config.observation.update(defence)
        found = {(setting.attack, setting.adaptive) for setting in settings_lib.settings(config)}
        assert ('spectral', False) in found
