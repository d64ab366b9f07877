"""The catalog: every default is there, and suits what it is for."""

import pytest

from cs231n_optax.experiments import catalog


def test_every_default_rate_of_race_exists():
    wanted = {(model, data) for model in catalog.MODELS for data in catalog.DATASETS}
    assert catalog.LEARNING_RATES.keys() == wanted
    for rates in catalog.LEARNING_RATES.values():
        assert rates.keys() == catalog.METHODS.keys()
        assert all(0 < rate < 10 for rate in rates.values())


def test_every_default_rate_of_solve_exists():
    assert catalog.SOLVE_RATES.keys() == catalog.PROBLEMS.keys()
    for rates in catalog.SOLVE_RATES.values():
        assert rates.keys() == catalog.METHODS.keys()
        assert all(0 < rate <= 1 for rate in rates.values())


def test_decays_suit_the_length_of_the_race():
    for name, decay in catalog.DECAYS.items():
        schedule = decay.schedule(0.5, **decay.parameters(1000))
        assert float(schedule(0)) == pytest.approx(0.5)
        end = float(schedule(999)) / 0.5
        wanted = {"constant": 1, "step": 1 / 8, "cyclic-cosine": 0}.get(name, 1 / 10)
        assert end == pytest.approx(wanted, abs=1e-3)
