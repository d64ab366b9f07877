"""Parameters on many devices: where a state lies, what is sent, and that the numbers stay."""

import fcntl
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sample
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from methods import METHODS

import cs231n_optax
from cs231n_optax import testing

TESTS = pathlib.Path(__file__).parent
LEAVES = 4  # of the parameters in sharded_run.py

# Over 8 devices, in a process of their own.


def rows(holds=lambda method: True):
    """The names of those methods for which something holds, a part of them in each commit."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(method.name, marks=sample.marks(row))
            for row, method in enumerate(METHODS)
            if holds(method)
        ],
    )


@pytest.fixture(scope="session")
def reports(request, tmp_path_factory):
    """What sharded_run.py says of each method: run once, by the first worker to come here."""
    users = (item for item in request.session.items if "reports" in item.fixturenames)
    names = sorted({item.callspec.params["name"] for item in users})
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sharded.json"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            places = os.pathsep.join([str(TESTS), str(TESTS.parent / "benchmarks")])
            ran = subprocess.run(
                [sys.executable, TESTS / "sharded_run.py", *names],
                env=os.environ | {"PYTHONPATH": places},
                capture_output=True,
                text=True,
            )
            assert ran.returncode == 0, ran.stderr
            path.write_text(ran.stdout)
    return json.loads(path.read_text())


@rows()
def test_states_lie_as_their_parameters(reports, name):
    """From init, eager and jitted, and after donated updates; and the numbers are the same."""
    report = reports[name]
    assert report["eager"] == []
    assert report["init"] == []
    assert report["steps"] == []
    assert report["kept"] == []
    assert report["error"] <= 1e-5


@rows(lambda method: method.oracle)
def test_first_order_methods_send_nothing(reports, name):
    assert reports[name]["collectives"] == []


# The most all-reduces of a step, and the most numbers in one of them.
SUMS = {
    "scale_by_lbfgs": (3, 2 * 4),  # memory_size=4, and two leaves are sharded
    "lbfgs": (9, 2 * 4),
    "newton_cg": (10, 2 * LEAVES),
    "gradient_descent": (6, LEAVES),
}


@rows(lambda method: method.name in SUMS)
def test_line_searches_send_only_sums(reports, name):
    """Of 32768 parameters: a few all-reduces, of at most a scalar or m of them for each leaf."""
    most, largest = SUMS[name]
    found = reports[name]["collectives"]
    assert {op for op, _ in found} == {"all-reduce"}
    assert 0 < len(found) <= most
    assert max(numbers for _, numbers in found) <= largest


@rows(lambda method: method.name in ("bfgs", "scale_by_bfgs"))
def test_bfgs_sends_vectors_and_never_its_matrix(reports, name):
    assert max(numbers for _, numbers in reports[name]["collectives"]) <= 64


# `state_sharding`, over this process's two devices.


def two_devices(*axis_types):
    return jax.make_mesh((2,), ("d",), axis_types=axis_types or (AxisType.Auto,))


def named(*spec):
    return NamedSharding(two_devices(), P(*spec))


SHARDINGS = {"w": named("d"), "b": named(None, "d"), "c": named()}
PARAMS = {
    "w": jax.ShapeDtypeStruct((6, 2), jnp.float32),
    "b": jax.ShapeDtypeStruct((3, 4), jnp.float32),
    "c": jax.ShapeDtypeStruct((), jnp.float32),
}


def layout(tx, params=PARAMS, shardings=SHARDINGS):
    """Its result, with the structure and the ranks checked."""
    found = cs231n_optax.state_sharding(tx, params, shardings)
    state = jax.eval_shape(tx.init, params)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        sharding.shard_shape(leaf.shape)
    return found


def test_histories_are_sharded_row_by_row():
    """Ours and those of Optax's L-BFGS, for which its map_params has no answer."""
    stacked = {"w": P(None, "d"), "b": P(None, None, "d"), "c": P(None)}
    ours = layout(cs231n_optax.scale_by_lbfgs(5))
    peers = layout(optax.scale_by_lbfgs(5))
    for history in (ours.s, ours.y, peers.diff_params_memory, peers.diff_updates_memory):
        assert {name: sharding.spec for name, sharding in history.items()} == stacked
    assert ours.params == peers.params == SHARDINGS
    assert {ours.num_points, ours.sy, ours.r_inverse, peers.weights_memory} == {named()}

    params = jax.tree.map(lambda x, s: jax.device_put(jnp.ones(x.shape), s), PARAMS, SHARDINGS)
    mapped = optax.tree.map_params(
        optax.scale_by_lbfgs(5),
        lambda _, p: p.sharding,
        optax.scale_by_lbfgs(5).init(params),
        params,
    )
    assert mapped.diff_params_memory["w"].spec == P("d")


WRAPPED = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": False, "c": True}),
    "partition": lambda tx: optax.partition(
        {"ours": tx, "frozen": optax.set_to_zero()}, {"w": "ours", "b": "frozen", "c": "ours"}
    ),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
    "inject_hyperparams": lambda tx: optax.inject_hyperparams(lambda rate: tx)(rate=0.1),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED.keys())
def test_wrappers_do_not_hide_the_parameters(wrap):
    found = layout(wrap(cs231n_optax.scale_by_lbfgs(5)))
    assert optax.tree.get(found, "s")["w"] == named(None, "d")
    assert optax.tree.get(found, "r_inverse") == named()
    adam = layout(wrap(optax.scale_by_adam()))
    assert optax.tree.get(adam, "nu")["w"] == named("d")


def test_a_mask_may_leave_out_a_whole_subtree():
    params, shardings = {"net": PARAMS, "head": PARAMS["w"]}, {"net": SHARDINGS, "head": named()}
    tx = optax.masked(cs231n_optax.scale_by_momentum(0.9), {"net": False, "head": True})
    assert jax.tree.leaves(layout(tx, params, shardings)) == [named()]


def test_a_factored_state_is_replicated_where_it_has_another_shape():
    found = layout(optax.scale_by_factored_rms(min_dim_size_to_factor=2))
    assert {s.is_fully_replicated for s in jax.tree.leaves(found)} == {True}


def test_shape_decides_for_a_single_array():
    """Vectors of m numbers and scalars are no parameters; where m = N they lie as one."""
    params, tx = jax.ShapeDtypeStruct((16,), jnp.float32), cs231n_optax.scale_by_lbfgs(5)
    found = layout(tx, params, named("d"))
    assert (found.params, found.s) == (named("d"), named(None, "d"))
    assert {found.num_points, found.sy, found.r_inverse, found.s_grad} == {named()}
    as_many = layout(cs231n_optax.scale_by_lbfgs(16), params, named("d"))
    assert (as_many.params, as_many.sy, as_many.num_points) == (named("d"), named("d"), named())
    scalar = layout(tx, jax.ShapeDtypeStruct((), jnp.float32), named())
    assert all(s.is_fully_replicated for s in jax.tree.leaves(scalar))


def test_a_tuple_of_parameters_is_not_a_chain():
    """The states of a chain of two lie in a tuple of two, as these parameters do."""
    params, shardings = (PARAMS["w"], PARAMS["c"]), (SHARDINGS["w"], SHARDINGS["c"])
    found = layout(optax.chain(optax.trace(0.9), optax.scale_by_adam()), params, shardings)
    assert (found[0].trace, found[1].nu, found[1].count) == (shardings, shardings, named())


def test_the_ravelled_are_sharded_by_rows_if_they_divide():
    params = {"w": PARAMS["w"], "b": PARAMS["b"]}
    found = layout(cs231n_optax.scale_by_bfgs(), params, {"w": named("d"), "b": named()})
    assert (found.inverse_hessian, found.grads, found.decrement) == (
        named(("d",)),
        named(("d",)),
        named(),
    )
    odd = layout(cs231n_optax.scale_by_bfgs())  # 25 numbers
    assert odd.inverse_hessian == odd.grads == named()
    complexes = jax.ShapeDtypeStruct((3,), jnp.complex64)  # 6 real numbers
    assert layout(cs231n_optax.scale_by_bfgs(), complexes, named()).inverse_hessian.spec == P("d")


@pytest.mark.parametrize("leaf", [jax.random.key(0), jnp.arange(3), 3], ids=repr)
def test_frozen_leaves_that_are_no_numbers(leaf):
    """As a key or a counter in a model, which optax.partition keeps from the method."""
    tx = optax.partition(
        {"train": cs231n_optax.scale_by_bfgs(), "freeze": optax.set_to_zero()},
        {"w": "train", "n": "freeze"},
    )
    found = layout(tx, {"w": PARAMS["w"], "n": leaf}, {"w": SHARDINGS["w"], "n": named()})
    assert optax.tree.get(found, "inverse_hessian") == named(("d",))


def test_one_sharding_stands_for_all_below_it():
    everywhere = named()
    found = layout(cs231n_optax.scale_by_adam(), PARAMS, everywhere)
    assert set(jax.tree.leaves(found)) == {everywhere}
    one_device = SingleDeviceSharding(jax.devices()[1])
    found = layout(cs231n_optax.lbfgs(), PARAMS, one_device)
    assert set(jax.tree.leaves(found)) == {one_device}


@rows(lambda method: method.name in ("adam", "lbfgs", "bfgs", "newton", "newton_cg"))
def test_explicit_meshes(name):
    """Where the mesh makes shardings a part of the types, as that of jax.make_mesh does."""
    method = next(method for method in METHODS if method.name == name)
    tx = method.factory(**method.hyperparams)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(testing.default_loss)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=testing.default_loss)
        return optax.apply_updates(params, updates), state

    def run(params, state):
        for _ in range(3):
            params, state = step(params, state)
        return params

    mesh = two_devices(AxisType.Explicit)
    shardings = jax.tree.map(lambda s: NamedSharding(mesh, s.spec), SHARDINGS)
    start = {name: jnp.full(x.shape, 0.5) for name, x in PARAMS.items()}
    params = jax.device_put(start, shardings)
    placed = cs231n_optax.state_sharding(tx, params, shardings)
    moved = run(params, jax.jit(tx.init, out_shardings=placed)(params))
    expected = run(start, tx.init(start))
    for key, x in moved.items():
        assert x.sharding.is_equivalent_to(shardings[key], x.ndim)
        np.testing.assert_allclose(np.asarray(x), expected[key], rtol=1e-5)


def regression(params, batch):
    return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) + params["b"] - batch["y"]) ** 2)


X = np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)
EXAMPLES = {"x": X, "y": X[:, 0] - X[:, 1]}
FIRST = {"w": jnp.full(4, 0.1), "b": jnp.zeros(())}
OPTIONS = {"steps": 5, "batch_size": 8, "key": jax.random.key(0), "chunk_size": 5}


class TestFitOnAnExplicitMesh:
    """Of data that are spread over the devices, with the same numbers as on one device."""

    @staticmethod
    def spread(*spec):
        mesh = two_devices(AxisType.Explicit)
        places = {"x": P(*spec), "y": P(*spec[:1])}
        return mesh, {
            name: jax.device_put(x, NamedSharding(mesh, places[name]))
            for name, x in EXAMPLES.items()
        }

    def fit(self, data, tx=None, params=FIRST, loss=regression, **options):
        tx = cs231n_optax.adam(0.1) if tx is None else tx
        return cs231n_optax.fit(loss, params, tx, data, **{**OPTIONS, **options})

    @pytest.mark.parametrize(
        ("spec", "options"),
        [
            (("d",), {}),
            (("d",), {"batch_size": 7}),
            (("d",), {"batch_size": None}),
            ((None, "d"), {"callback": lambda progress: None}),
            (("d",), {"tx": cs231n_optax.lbfgs()}),
        ],
        ids=["examples", "a batch that does not divide", "all examples", "features", "lbfgs"],
    )
    def test_same_numbers(self, spec, options):
        _, data = self.spread(*spec)
        found, expected = self.fit(data, **options), self.fit(EXAMPLES, **options)
        np.testing.assert_allclose(found.history.loss, expected.history.loss, rtol=1e-5)
        np.testing.assert_allclose(found.params["w"], expected.params["w"], rtol=1e-4)

    def test_batches_lie_as_the_data(self):
        seen = []

        def spied(params, batch):
            seen.append((jax.typeof(batch["x"]).sharding.spec, batch["x"].shape))
            return regression(params, batch)

        self.fit(self.spread("d")[1], loss=spied)
        assert set(seen) == {(P("d", None), (8, 4))}

    def test_traced_in_the_context_of_the_mesh(self):
        mesh, data = self.spread("d")
        keys = jax.random.split(OPTIONS["key"], 2)

        def run(key):
            return self.fit(data, key=key).history.loss

        with jax.set_mesh(mesh):
            lanes = jax.jit(jax.vmap(run))(keys)
        alone = [self.fit(EXAMPLES, key=key).history.loss for key in keys]
        np.testing.assert_allclose(lanes, alone, rtol=1e-5)
        with pytest.raises(ValueError, match="set_mesh"):
            jax.jit(run)(keys[0])

    def test_members(self):
        mesh, data = self.spread("d")

        def members(data):
            return cs231n_optax.fit_members(
                regression,
                lambda key: {"w": jax.random.normal(key, (4,)), "b": jnp.zeros(())},
                cs231n_optax.adam(0.1),
                data,
                num_members=2,
                **OPTIONS,
            ).history.loss

        expected = members(EXAMPLES)
        with jax.set_mesh(mesh):
            np.testing.assert_allclose(members(data), expected, rtol=1e-5)
        with pytest.raises(ValueError, match="set_mesh"):
            members(data)

    def test_a_sweep_in_the_context_of_another_mesh(self):
        mesh, data = self.spread("d")

        def run(hparams, data=EXAMPLES):
            return self.fit(data, cs231n_optax.sgd(hparams["rate"])).history.loss

        grid = {"rate": [0.1, 0.2, 0.3]}
        expected = cs231n_optax.sweep(run, grid, batch_size=1).outputs
        with jax.set_mesh(mesh):
            found = cs231n_optax.sweep(run, grid, batch_size=1).outputs
            assert jax.sharding.get_abstract_mesh().axis_names == ("d",)
            with pytest.raises(ValueError, match="device_get"):
                cs231n_optax.sweep(lambda hparams: run(hparams, data), grid)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["adam", "lbfgs", "newton_cg"])
def test_ten_billion_parameters(name):
    """No count or size in an update overflows; nothing is computed."""
    method = next(method for method in METHODS if method.name == name)
    tx = method.factory(**method.hyperparams)
    params = jax.ShapeDtypeStruct((10**5, 10**5), jnp.float32)
    state = jax.eval_shape(tx.init, params)

    def update(params, state):
        return tx.update(params, state, params, value=jnp.ones(()), value_fn=testing.default_loss)

    steps, after = jax.eval_shape(update, params, state)
    assert (steps.shape, jax.tree.structure(after)) == (params.shape, jax.tree.structure(state))
