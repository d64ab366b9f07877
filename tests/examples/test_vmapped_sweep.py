"""Both sweeps against single runs, a resumed one, and rows that diverge."""

import jax
import numpy as np
import pytest

import cs231n_optax as co

STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(example, folder):
    return example.main(steps=STEPS, path=folder)


def test_both_ways_agree_on_the_same_rows(swept, example):
    rows, by_vmap, table = swept
    learning_rates, rhos, decays = (np.asarray(values) for values in example.GRID.values())
    np.testing.assert_allclose(rows["learning_rate"], np.repeat(learning_rates, 4), rtol=1e-6)
    np.testing.assert_array_equal(rows["rho"], np.tile(np.repeat(np.float32(rhos), 2), 7))
    np.testing.assert_array_equal(rows["decay"], np.tile(np.float32(decays), 14))
    for name, column in rows.items():
        np.testing.assert_array_equal(table.hparams[name], column)
    np.testing.assert_allclose(table.outputs["loss"], by_vmap["loss"], rtol=1e-4)
    np.testing.assert_array_equal(table.outputs["diverged_at"], by_vmap["diverged_at"])
    # An image of 450 may fall to the other side by rounding.
    np.testing.assert_allclose(table.outputs["accuracy"], by_vmap["accuracy"], atol=1.5 / 450)


def test_rows_are_those_of_single_runs(swept, example):
    """Among them one that diverges, which ends where it ends alone."""
    rows, by_vmap, _ = swept
    single = jax.jit(lambda hparams: example.train(hparams, steps=STEPS))
    for row in (3, 10, 18, 21):
        alone = single({name: column[row] for name, column in rows.items()})
        np.testing.assert_allclose(by_vmap["loss"][row], alone["loss"], rtol=1e-4)
        assert by_vmap["diverged_at"][row] == alone["diverged_at"]


def test_diverging_rows_are_reported_and_disturb_no_other(swept, example):
    rows, by_vmap, table = swept
    died = table.outputs["diverged_at"] >= 0
    assert 0 < died.sum() < died.size / 2
    np.testing.assert_array_equal(np.isfinite(table.outputs["loss"]), ~died)
    # Divergence needs large rates: up to 0.1 there is none, from 0.3 on there is nothing else.
    np.testing.assert_array_equal(died, np.asarray(rows["learning_rate"]) > 0.2)
    assert np.isfinite(by_vmap["accuracy"]).all()
    best = co.best_row(table, lambda outputs: outputs["loss"])
    assert table.outputs["loss"][best] == np.nanmin(table.outputs["loss"])
    assert table.outputs["accuracy"][best] > 0.85


def test_a_resumed_sweep_computes_nothing_again(swept, example, folder, capsys):
    """Not one file is written, and every row was there when it began."""

    def contents():
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}

    before = contents()
    assert before
    finished = []
    run = example.functools.partial(example.train, steps=STEPS)
    again = co.sweep(
        run, example.GRID, path=folder, callback=lambda p: finished.append(p.num_finished)
    )
    assert finished == [28]
    assert {
        file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()
    } == before
    for name, column in swept[2].outputs.items():
        np.testing.assert_array_equal(again.outputs[name], column)
