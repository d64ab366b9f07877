"""What is asserted of the features holds for any Gram matrices; the runs are tiny."""

import jax
import numpy as np
import optax
import pytest

import cs231n_optax as co

pytest.importorskip("sklearn", reason="needs pip install -e '.[gallery]'")
pytest.importorskip("matplotlib", reason="needs pip install -e '.[gallery]'")

SIZE = (24, 36)
EVALS = 12


@pytest.fixture(scope="module")
def ran(example, tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures") / "style.png"
    return out, example.main(out, size=SIZE, num_evals=EVALS, rates=(0.01, 0.1))


def test_gram_is_the_mean_of_products_wherever_they_are(example):
    rng = np.random.default_rng(0)
    feature_map = rng.standard_normal((6, 8, 5)).astype(np.float32)
    expected = np.einsum("hwi,hwj->ij", feature_map, feature_map) / 48
    np.testing.assert_allclose(example.gram(feature_map), expected, rtol=1e-5, atol=1e-6)
    moved = np.roll(feature_map, (2, 3), axis=(0, 1))
    np.testing.assert_allclose(example.gram(moved), expected, rtol=1e-5, atol=1e-6)


def test_filters_see_edges_and_not_colours(example):
    """The map of the pixels is there for the colours."""
    maps = example.features(np.full((*SIZE, 3), 0.7, np.float32))
    for pixels, edges in zip(maps[::2], maps[1::2], strict=True):
        np.testing.assert_allclose(pixels, 0.7, rtol=1e-5)
        np.testing.assert_allclose(edges, 0, atol=1e-5)


def test_terms_vanish_at_their_own_picture(example):
    maps = example.features(example.photograph("flower.jpg", SIZE, example.FLOWER))
    others = example.features(example.photograph("china.jpg", SIZE))
    grams = [example.gram(m) for m in maps]
    assert example.style_loss(maps, grams) == 0
    assert example.style_loss(others, grams) > 0.1
    assert example.distance(maps[1], maps[1]) == 0


def test_methods_spend_the_same_evaluations(ran):
    _, runs = ran
    trial = runs["lbfgs"].state.trial
    assert co.status(runs["lbfgs"].state) == co.Status.RUNNING  # so that none was idle
    assert int(trial.num_evals) == len(runs["lbfgs"].curve) == EVALS
    for adam in runs["adams"].values():
        assert int(optax.tree.get(adam.state, "count")) == len(adam.curve) == EVALS
    assert len(runs["longer"].curve) == 6 * EVALS


def test_losses_fall_and_belong_to_the_images(example, ran):
    _, runs = ran
    content = example.photograph("china.jpg", SIZE)
    style = example.photograph("flower.jpg", SIZE, example.FLOWER)
    loss = jax.jit(example.make_loss(content, style))
    for run in (runs["lbfgs"], *runs["adams"].values(), runs["longer"]):
        curve = np.asarray(run.curve)
        assert curve[0] == pytest.approx(float(loss(content)), rel=1e-4)
        assert curve[-1] == pytest.approx(float(loss(run.image)), rel=1e-4)
        assert np.all(np.diff(curve) <= 0)
        assert curve[-1] < curve[0]
    assert runs["lbfgs"].curve[-1] < 0.1 * runs["lbfgs"].curve[0]


def test_picture_is_a_png_of_its_size(ran):
    image = pytest.importorskip("matplotlib.image").imread(ran[0])
    assert ran[0].read_bytes().startswith(b"\x89PNG")
    assert image.shape == (615, 1350, 4)
    assert image[..., :3].std() > 0.1
