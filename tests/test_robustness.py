# ruff: noqa: E501 - a row a line, whatever its length
"""What each public function does for what it can't use: one row each, the call and what it does.

Either an error that names the fault, or a result that is documented as safe. What all
transformations do alike is asked of every row of `methods.METHODS`.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from methods import METHODS

import cs231n_optax as co
from cs231n_optax.testing import check_transformation

X = jnp.ones(3)
MIXED = {"w": X, "n": jnp.arange(3)}
NAN, INF = float("nan"), float("inf")
DATA = jnp.arange(12.0).reshape(4, 3)
KEY = jax.random.key(0)
STRINGS = np.array(["a", "b", "c", "d"])
MEMBERS = jnp.ones((2, 3))
ON_ONE = SingleDeviceSharding(jax.devices()[0])
SGD, MOMENTUM, NESTEROV = co.sgd(0.1), co.momentum(0.1), co.nesterov(0.1)
TABLE = co.SweepResult({"x": np.array([1.0, 2.0])}, np.array([1.0, 4.0]))


def square(params):
    """Σ |x|² of any tree."""
    return sum((jnp.sum(jnp.abs(x) ** 2) for x in jax.tree.leaves(params)), start=jnp.zeros(()))


def loss(params, batch):
    return square(params) + 0 * jnp.sum(batch)


def update(tx, grads=X, params=X, first=X, **given):
    """What an update gives, of a state made for ``first``."""
    given = {"value": 3.0, "value_fn": square, **given}
    return optax.with_extra_args_support(tx).update(grads, tx.init(first), params, **given)[0]


def minimize(fun=square, x0=X, tx=SGD, **options):
    return co.minimize(fun, x0, tx, **options)


def fit(loss=loss, params=X, tx=SGD, data=DATA, steps=1, **options):
    return co.fit(loss, params, tx, data, steps=steps, **options)


def fit_members(loss=loss, init=lambda key: X, tx=SGD, data=DATA, **options):
    options = {"num_members": 2, "steps": 1, "key": KEY, **options}
    return co.fit_members(loss, init, tx, data, **options)


def predict(apply_fn=lambda w, x: x * w[0], params=MEMBERS, x=DATA, link=lambda y: y, **options):
    return co.ensemble_predict(apply_fn, params, x, link=link, **options)


def sweep(run=lambda h: h["x"] ** 2, grid=None, **options):
    return co.sweep(run, {"x": [1.0, 2.0]} if grid is None else grid, **options)


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# fmt: off
# The id, which begins with the function; the call; the error, and the argument that it names.
ERRORS = [
    # Hyperparameters.
    ("sgd: negative", lambda: co.sgd(-0.1), ValueError, "learning_rate"),
    ("sgd: NaN", lambda: co.sgd(NAN), ValueError, "learning_rate"),
    ("sgd: infinite", lambda: co.sgd(INF), ValueError, "learning_rate"),
    ("sgd: beyond float64", lambda: co.sgd(10**400), ValueError, "learning_rate"),
    ("sgd: beyond float32", lambda: co.sgd(1e39), ValueError, "learning_rate"),
    ("step_decay: below float32", lambda: co.step_decay(0.1, 5e-324), ValueError, "every"),
    ("sgd: string", lambda: co.sgd("0.1"), TypeError, "learning_rate"),
    ("sgd: None", lambda: co.sgd(None), TypeError, "learning_rate"),
    ("sgd: bool", lambda: co.sgd(True), TypeError, "learning_rate"),
    ("sgd: vector", lambda: co.sgd(X), ValueError, "learning_rate"),
    ("sgd: NumPy vector", lambda: co.sgd(np.ones(2)), TypeError, "learning_rate"),
    ("sgd: complex", lambda: co.sgd(jnp.complex64(1)), TypeError, "learning_rate"),
    ("sgd: no argument", lambda: co.sgd(), TypeError, "learning_rate"),
    ("momentum: rho of 1", lambda: co.momentum(0.1, 1.0), ValueError, "rho"),
    ("momentum: negative", lambda: co.momentum(0.1, rho=-0.1), ValueError, "rho"),
    ("nesterov: rho of 2", lambda: co.nesterov(0.1, 2), ValueError, "rho"),
    ("adagrad: eps of 0", lambda: co.adagrad(0.1, eps=0.0), ValueError, "eps"),
    ("rmsprop: decay of 1.5", lambda: co.rmsprop(0.1, 1.5), ValueError, "decay"),
    ("rmsprop: negative eps", lambda: co.rmsprop(0.1, eps=-1e-7), ValueError, "eps"),
    ("adam: b1 of 1", lambda: co.adam(b1=1.0), ValueError, "b1"),
    ("adam: negative b2", lambda: co.adam(b2=-1), ValueError, "b2"),
    ("adam: number for a flag", lambda: co.adam(bias_correction=1), TypeError, "bias_correction"),
    ("adam: misspelt", lambda: co.adam(learning_rat=1), TypeError, "learning_rat"),
    ("scale_by_momentum: NaN", lambda: co.scale_by_momentum(NAN), ValueError, "rho"),
    ("scale_by_nesterov: string", lambda: co.scale_by_nesterov("0.9"), TypeError, "rho"),
    ("scale_by_adagrad: NaN", lambda: co.scale_by_adagrad(eps=NAN), ValueError, "eps"),
    ("scale_by_rmsprop: None", lambda: co.scale_by_rmsprop(None), TypeError, "decay"),
    ("scale_by_adam: infinite", lambda: co.scale_by_adam(b2=INF), ValueError, "b2"),
    ("scale_by_lbfgs: no pair", lambda: co.scale_by_lbfgs(0), ValueError, "memory_size"),
    ("scale_by_lbfgs: half a pair", lambda: co.scale_by_lbfgs(1.5), TypeError, "memory_size"),
    ("scale_by_lbfgs: bool", lambda: co.scale_by_lbfgs(True), TypeError, "memory_size"),
    ("scale_by_bfgs: negative", lambda: co.scale_by_bfgs(damping=-0.1), ValueError, "damping"),
    ("scale_by_newton: NaN", lambda: co.scale_by_newton(NAN), ValueError, "damping"),
    ("scale_by_newton: string", lambda: co.scale_by_newton("1"), TypeError, "damping"),
    ("scale_by_newton: flag", lambda: co.scale_by_newton(saddle_free=None), TypeError, "saddle_free"),
    ("lbfgs: injected size", lambda: optax.inject_hyperparams(co.lbfgs)(memory_size=5).init(X), TypeError, "static_args=('memory_size',)"),
    ("lbfgs: traced size", lambda: jax.jit(co.lbfgs)(2), TypeError, "memory_size"),
    ("bfgs: string", lambda: co.bfgs(damping="0.2"), TypeError, "damping"),
    ("bfgs: damping of 1", lambda: co.bfgs(damping=1.0), ValueError, "damping"),
    ("newton: flag", lambda: co.newton(leave_saddles=1), TypeError, "leave_saddles"),
    ("newton: positional", lambda: co.newton(True), TypeError, "positional"),
    ("newton_cg: one function", lambda: co.newton_cg(gauss_newton=square), TypeError, "gauss_newton"),
    ("wolfe: c1 of 1", lambda: co.wolfe(c1=1), ValueError, "c1"),
    ("wolfe: c2 of NaN", lambda: co.wolfe(c2=NAN), ValueError, "c2"),
    ("wolfe: no evaluation", lambda: co.wolfe(max_evals=0), ValueError, "max_evals"),
    ("backtracking: 0", lambda: co.backtracking(decrease=0), ValueError, "decrease"),
    ("backtracking: string", lambda: co.backtracking(max_evals="9"), TypeError, "max_evals"),
    ("polyak_average: 1", lambda: co.polyak_average(1.0), ValueError, "decay"),
    ("polyak_average: string", lambda: co.polyak_average("0.9"), TypeError, "decay"),
    ("polyak_average: number for a flag", lambda: co.polyak_average(bias_correction=0), TypeError, "bias_correction"),
    ("polyak_average: flag", lambda: co.polyak_average(uniform=1), TypeError, "uniform"),
    ("polyak_average: both", lambda: co.polyak_average(bias_correction=True, uniform=True), ValueError, "uniform"),
    ("snapshots: none", lambda: co.snapshots(0, 10), ValueError, "num"),
    ("snapshots: array", lambda: co.snapshots(jnp.int32(2), 10), TypeError, "num"),
    ("snapshots: every 0", lambda: co.snapshots(2, 0), ValueError, "every"),
    ("snapshots: every None", lambda: co.snapshots(2, None), TypeError, "every"),
    ("step_decay: every 0", lambda: co.step_decay(0.1, 0), ValueError, "every"),
    ("step_decay: negative", lambda: co.step_decay(-1, 10), ValueError, "init_value"),
    ("step_decay: growth", lambda: co.step_decay(0.1, 10, 1.1), ValueError, "factor"),
    ("exponential_decay: growth", lambda: co.exponential_decay(0.1, -1), ValueError, "rate"),
    ("inverse_time_decay: infinite", lambda: co.inverse_time_decay(0.1, INF), ValueError, "rate"),
    ("cyclic_cosine: negative", lambda: co.cyclic_cosine(0.1, -5), ValueError, "cycle_length"),
    # Schedules: what they are asked, and what they answer.
    ("step_decay: no step", lambda: co.step_decay(0.1, 10)(None), TypeError, "count"),
    ("exponential_decay: string", lambda: co.exponential_decay(0.1, 1)("a"), TypeError, "count"),
    ("inverse_time_decay: tree", lambda: co.inverse_time_decay(0.1, 1)({"t": 1}), TypeError, "count"),
    ("cyclic_cosine: complex", lambda: co.cyclic_cosine(0.1, 10)(1j), TypeError, "count"),
    ("sgd: vector of rates", lambda: co.sgd(lambda t: X).init(X), ValueError, "learning_rate(count)"),
    ("momentum: no rate", lambda: co.momentum(lambda t: None).init(X), TypeError, "learning_rate(count)"),
    ("nesterov: negative rate", lambda: co.nesterov(lambda t: -0.1).init(X), ValueError, "learning_rate(count)"),
    ("adam: complex rate", lambda: co.adam(lambda t: 1j).init(X), TypeError, "learning_rate(count)"),
    ("adam: a schedule to be made", lambda: co.adam(co.step_decay).init(X), TypeError, "every"),
    # What the parts are made of.
    ("with_line_search: None", lambda: co.with_line_search(None), TypeError, "direction"),
    ("with_line_search: factory", lambda: co.with_line_search(co.scale_by_lbfgs), TypeError, "direction"),
    ("with_line_search: search", lambda: co.with_line_search(SGD, "wolfe"), TypeError, "search"),
    ("with_line_search: flag", lambda: co.with_line_search(SGD, unit_step=1), TypeError, "unit_step"),
    ("lbfgs: factory of a search", lambda: co.lbfgs(search=co.wolfe), TypeError, "search"),
    ("bfgs: no search", lambda: co.bfgs(search=None), TypeError, "search"),
    # Updates, where methods differ.
    ("adam: complex gradient", lambda: update(co.adam(), X + 1j), ValueError, "gradient"),
    ("scale_by_lbfgs: complex gradient", lambda: update(co.scale_by_lbfgs(), X + 1j), ValueError, "gradients"),
    ("scale_by_lbfgs: other parameters", lambda: update(co.scale_by_lbfgs(), X, X[:1]), ValueError, "parameters"),
    ("scale_by_lbfgs: integers", lambda: update(co.scale_by_lbfgs(), X, jnp.arange(3)), TypeError, "parameter"),
    ("scale_by_bfgs: other parameters", lambda: update(co.scale_by_bfgs(), X[:1], X[:1]), ValueError, "parameters"),
    ("scale_by_bfgs: of one gradient", lambda: update(co.scale_by_bfgs(), X, X[:1]), ValueError, "gradients"),
    ("scale_by_newton: other parameters", lambda: update(co.scale_by_newton(), X, X[:1]), ValueError, "gradients"),
    ("scale_by_newton: no objective", lambda: update(co.scale_by_newton(), value_fn=None), TypeError, "value_fn"),
    ("scale_by_newton: vector", lambda: update(co.scale_by_newton(), value_fn=lambda x: x), TypeError, "value_fn"),
    ("scale_by_newton: string", lambda: update(co.scale_by_newton(), value_fn="square"), TypeError, "value_fn"),
    ("scale_by_newton: Hessian", lambda: update(co.scale_by_newton(), hessian=jnp.eye(2)), ValueError, "hessian"),
    ("scale_by_newton: complex Hessian", lambda: update(co.scale_by_newton(), hessian=1j * jnp.eye(3)), ValueError, "hessian"),
    ("newton: no objective", lambda: update(co.newton(), value_fn=None), TypeError, "value_fn"),
    ("newton: vector", lambda: update(co.newton(), value_fn=lambda x: x), TypeError, "value_fn"),
    ("newton: string Hessian", lambda: update(co.newton(), hessian=np.full((3, 3), "a")), TypeError, "hessian"),
    ("newton_cg: no objective", lambda: update(co.newton_cg(), value_fn=None), TypeError, "value_fn"),
    ("newton_cg: vector", lambda: update(co.newton_cg(), value_fn=lambda x: x), TypeError, "value_fn"),
    ("newton_cg: vector loss", lambda: update(co.newton_cg(gauss_newton=(lambda x: x, lambda y: y))), TypeError, "gauss_newton"),
    ("lbfgs: bools", lambda: co.lbfgs().init(jnp.ones(3, bool)), TypeError, "params"),
    ("polyak_average: integers", lambda: co.polyak_average().init(MIXED), TypeError, "parameter['n']"),
    ("polyak_average: no parameters", lambda: update(co.polyak_average(), params=None), ValueError, "parameters"),
    ("polyak_average: integers later", lambda: update(co.polyak_average(), jnp.arange(3), jnp.arange(3)), TypeError, "parameter"),
    ("polyak_average: other tree", lambda: update(co.polyak_average(), {"a": X}, {"a": X}, {"b": X}), ValueError, "updates"),
    ("polyak_average: other shape", lambda: update(co.polyak_average(), X, X[:2]), ValueError, "parameters"),
    ("polyak_average: None", lambda: update(co.polyak_average(), None), ValueError, "updates"),
    ("snapshots: integers", lambda: co.snapshots(2, 5).init(jnp.arange(3)), TypeError, "parameter"),
    ("snapshots: no parameters", lambda: update(co.snapshots(2, 5), params=None), ValueError, "snapshots"),
    ("snapshots: other shape", lambda: update(co.snapshots(2, 5), X[:2]), ValueError, "updates"),
    # What reads a state.
    ("accepted: two records", lambda: co.accepted((co.lbfgs().init(X), co.newton().init(X))), ValueError, "state"),
    ("accepted_params: none", lambda: co.accepted_params(SGD.init(X)), ValueError, "state"),
    ("accepted_params: other tree", lambda: co.accepted_params(co.lbfgs().init({"a": X}), {"b": X}), ValueError, "params"),
    ("accepted_grad_norm: none", lambda: co.accepted_grad_norm(SGD.init(X)), ValueError, "state"),
    ("lbfgs_pairs: none", lambda: co.lbfgs_pairs(co.bfgs().init(X)), ValueError, "scale_by_lbfgs"),
    ("lbfgs_pairs: two", lambda: co.lbfgs_pairs([co.lbfgs().init(X)] * 2), ValueError, "scale_by_lbfgs"),
    ("status: None", lambda: co.status(None), ValueError, "state"),
    ("averaged_params: none", lambda: co.averaged_params(SGD.init(X)), ValueError, "polyak_average"),
    ("snapshot_params: none", lambda: co.snapshot_params(SGD.init(X)), ValueError, "snapshots"),
    ("snapshot_params: string", lambda: co.snapshot_params("state"), ValueError, "snapshots"),
    ("snapshots_filled: empty", lambda: co.snapshots_filled(()), ValueError, "snapshots"),
    ("nesterov_iterate: none", lambda: co.nesterov_iterate(MOMENTUM.init(X), X), ValueError, "scale_by_nesterov"),
    ("nesterov_iterate: other key", lambda: co.nesterov_iterate(NESTEROV.init({"a": X}), {"b": X}), ValueError, "params"),
    ("nesterov_iterate: deeper tree", lambda: co.nesterov_iterate(NESTEROV.init(X), {"b": X}), ValueError, "params"),
    ("nesterov_iterate: one number", lambda: co.nesterov_iterate(NESTEROV.init(X), X[:1]), ValueError, "params"),
    ("nesterov_iterate: integers", lambda: co.nesterov_iterate(NESTEROV.init(X), jnp.arange(3)), ValueError, "params"),
    ("nesterov_iterate: None", lambda: co.nesterov_iterate(NESTEROV.init(X), None), ValueError, "params"),
    ("progress_bar: a number", lambda: co.progress_bar(3), TypeError, "callback"),
    # Diagnostics.
    ("extreme_eigenvalues: no products", lambda: co.extreme_eigenvalues(jnp.sum, X, key=KEY, num_products=0), ValueError, "num_products"),
    ("extreme_eigenvalues: integers", lambda: co.extreme_eigenvalues(jnp.sum, jnp.arange(3), key=KEY), TypeError, "parameter"),
    ("spectral_density: no probes", lambda: co.spectral_density(jnp.sum, X, key=KEY, num_probes=0), ValueError, "num_probes"),
    ("smooth_density: a number", lambda: co.smooth_density(1.0, 0.0, 1.0), TypeError, "density"),
    ("classify_point: tolerance", lambda: co.classify_point(jnp.sum, X, key=KEY, grad_tol=-1), ValueError, "grad_tol"),
    ("gradient_noise: sizes", lambda: co.gradient_noise(lambda x, b: jnp.sum(x * b), X, X, key=KEY, batch_sizes=(2, 3)), ValueError, "batch_sizes"),
    ("record_every: zero", lambda: co.record_every(0, jnp.sum, []), ValueError, "num_steps"),
    ("Status: unknown", lambda: co.Status(99), ValueError, "99"),
    # The Hessian.
    ("hessian_matrix: integers", lambda: co.hessian_matrix(square, MIXED), TypeError, "parameter['n']"),
    ("hessian_matrix: string", lambda: co.hessian_matrix(square, "x"), TypeError, "parameter"),
    ("hessian_matrix: no function", lambda: co.hessian_matrix(None, X), TypeError, "fun"),
    ("hessian_matrix: vector", lambda: co.hessian_matrix(lambda x: x, X), TypeError, "fun"),
    ("hessian_matrix: string out", lambda: co.hessian_matrix(lambda x: "a", X), TypeError, "fun"),
    ("hessian_matrix: complex out", lambda: co.hessian_matrix(lambda x: 1j * jnp.sum(x), X), TypeError, "fun"),
    ("hessian_matrix: batch_size", lambda: co.hessian_matrix(square, X, batch_size=0), ValueError, "batch_size"),
    ("hessian_matrix: positional", lambda: co.hessian_matrix(square, X, 3), TypeError, "positional"),
    ("hessian_matrix: string for a size", lambda: co.hessian_matrix(square, X, batch_size="3"), TypeError, "batch_size"),
    ("hvp: integers", lambda: co.hvp(square, jnp.arange(3), X), TypeError, "parameter"),
    ("hvp: vector", lambda: co.hvp(lambda x: x, X, X), TypeError, "fun"),
    ("hvp: complex", lambda: co.hvp(lambda x: 1j * jnp.sum(x), X, X), TypeError, "fun"),
    ("hvp: no function", lambda: co.hvp(3, X, X), TypeError, "fun"),
    ("hvp: other tree", lambda: co.hvp(square, X, {"a": X}), TypeError, "v"),
    ("hvp: other shape", lambda: co.hvp(square, X, X[:2]), ValueError, "v"),
    ("hvp: other dtype", lambda: co.hvp(square, X, jnp.arange(3)), TypeError, "v"),
    ("hvp: None", lambda: co.hvp(square, X, None), TypeError, "v"),
    ("hvp: string", lambda: co.hvp(square, X, "v"), TypeError, "v"),
    # minimize.
    ("minimize: integers", lambda: minimize(x0=MIXED), TypeError, "parameter['n']"),
    ("minimize: integers, of Optax", lambda: minimize(x0=jnp.arange(3), tx=optax.sgd(0.1)), TypeError, "parameter"),
    ("minimize: string", lambda: minimize(x0={"a": "x"}), TypeError, "x0['a']"),
    ("minimize: float16", lambda: minimize(x0=X.astype("float16"), tx=co.lbfgs()), TypeError, "params"),
    ("minimize: no point", lambda: minimize(x0=None, tx=co.lbfgs()), ValueError, "parameters"),
    ("minimize: no function", lambda: minimize(None), TypeError, "fun"),
    ("minimize: vector", lambda: minimize(lambda x: x), TypeError, "fun"),
    ("minimize: string out", lambda: minimize(lambda x: "a"), TypeError, "fun"),
    ("minimize: auxiliary, unasked", lambda: minimize(lambda x: (square(x), x)), TypeError, "fun"),
    ("minimize: auxiliary, missing", lambda: minimize(has_aux=True), TypeError, "has_aux"),
    ("minimize: auxiliary string", lambda: minimize(lambda x: (square(x), "a"), has_aux=True), TypeError, "aux"),
    ("minimize: class", lambda: minimize(tx=co.lbfgs), TypeError, "tx"),
    ("minimize: a name", lambda: minimize(tx="lbfgs"), TypeError, "tx"),
    ("minimize: a search", lambda: minimize(tx=co.wolfe()), TypeError, "tx"),
    ("minimize: averaging", lambda: minimize(averaging="polyak"), TypeError, "averaging"),
    ("minimize: tol", lambda: minimize(tol=-1), ValueError, "tol"),
    ("minimize: atol", lambda: minimize(atol="0"), TypeError, "atol"),
    ("minimize: max_evals", lambda: minimize(max_evals=NAN), ValueError, "max_evals"),
    ("minimize: has_aux", lambda: minimize(has_aux=1), TypeError, "has_aux"),
    ("minimize: one argument", lambda: minimize(args=X), TypeError, "args"),
    ("minimize: string argument", lambda: minimize(args=("a",)), TypeError, "args[0]"),
    ("minimize: callback", lambda: minimize(callback=3), TypeError, "callback"),
    ("minimize: state", lambda: minimize(state=MOMENTUM.init(X)), ValueError, "state"),
    ("minimize_batch: no axis", lambda: co.minimize_batch(square, X, co.lbfgs(), in_axes=None), ValueError, "in_axes"),
    ("minimize_batch: a scalar", lambda: co.minimize_batch(square, 1.0, co.lbfgs()), ValueError, "x0"),
    ("learning_rate_range_test: a name", lambda: co.learning_rate_range_test(square, X, "sgd", DATA, batch_size=2), TypeError, "make_tx"),
    # fit.
    ("fit: integers", lambda: fit(params=MIXED, tx=optax.sgd(0.1)), TypeError, "parameter['n']"),
    ("fit: string", lambda: fit(params="x"), TypeError, "params"),
    ("fit: float16", lambda: fit(params=X.astype("float16"), tx=co.lbfgs()), TypeError, "params"),
    ("fit: no loss", lambda: fit(None), TypeError, "loss"),
    ("fit: vector", lambda: fit(lambda x, batch: x), TypeError, "loss"),
    ("fit: nothing", lambda: fit(lambda x, batch: None), TypeError, "loss"),
    ("fit: integer loss", lambda: fit(lambda x, batch: jnp.int32(1)), TypeError, "loss"),
    ("fit: class", lambda: fit(tx=co.adam), TypeError, "tx"),
    ("fit: string for a method", lambda: fit(tx="adam"), TypeError, "tx"),
    ("fit: averaging nothing", lambda: fit(averaging=SGD), ValueError, "averaging"),
    ("fit: no data", lambda: fit(data=None), TypeError, "data"),
    ("fit: ragged", lambda: fit(data=(DATA, X)), ValueError, "data"),
    ("fit: no example", lambda: fit(data=DATA[:0]), ValueError, "data"),
    ("fit: strings", lambda: fit(data={"x": STRINGS}), TypeError, "data['x']"),
    ("fit: batches of two trees", lambda: fit(data=iter([DATA, (DATA,)]), steps=2), ValueError, "batches"),
    ("fit: batches of two shapes", lambda: fit(data=iter([DATA, DATA[:2]]), steps=2), ValueError, "batches"),
    ("fit: batches of strings", lambda: fit(data=iter(["a", "b"])), TypeError, "batch"),
    ("fit: steps", lambda: fit(steps=-1), ValueError, "steps"),
    ("fit: steps of an array", lambda: fit(steps=jnp.int32(2)), TypeError, "steps"),
    ("fit: batch_size", lambda: fit(batch_size=5, key=KEY), ValueError, "batch_size"),
    ("fit: chunk_size", lambda: fit(chunk_size=0), ValueError, "chunk_size"),
    ("fit: no key", lambda: fit(batch_size=2), ValueError, "key"),
    ("fit: seed for a key", lambda: fit(batch_size=2, key=0), TypeError, "key"),
    ("fit: two keys", lambda: fit(batch_size=2, key=jax.random.split(KEY)), TypeError, "key"),
    ("fit: string for an unused key", lambda: fit(key="0"), TypeError, "key"),
    ("fit: callback", lambda: fit(callback=3), TypeError, "callback"),
    ("fit: evaluate", lambda: fit(evaluate="loss"), TypeError, "evaluate"),
    ("fit: evaluation", lambda: fit(evaluate=lambda x: {"a": "good"}), TypeError, "evaluation['a']"),
    ("fit: no key for the loss", lambda: fit(needs_key=True), ValueError, "key"),
    ("fit: no state", lambda: fit(state=()), TypeError, "state"),
    ("fit: state of another method", lambda: fit(tx=MOMENTUM, state=fit().state), ValueError, "state"),
    ("fit: state of another tree", lambda: fit(params={"a": X}, state=fit().state), ValueError, "params"),
    # Ensembles.
    ("fit_members: none", lambda: fit_members(num_members=0), ValueError, "num_members"),
    ("fit_members: half", lambda: fit_members(num_members=2.0), TypeError, "num_members"),
    ("fit_members: at once", lambda: fit_members(members_at_once=0), ValueError, "members_at_once"),
    ("fit_members: no init", lambda: fit_members(init=None), TypeError, "init"),
    ("fit_members: integers", lambda: fit_members(init=lambda key: MIXED), TypeError, "parameter['n']"),
    ("fit_members: seed for a key", lambda: fit_members(key=0), TypeError, "key"),
    ("fit_members: no key", lambda: fit_members(key=None), TypeError, "key"),
    ("fit_members: vector", lambda: fit_members(lambda x, batch: x), TypeError, "loss"),
    ("fit_members: class", lambda: fit_members(tx=co.adam), TypeError, "tx"),
    ("fit_members: an iterator", lambda: fit_members(data=iter([DATA])), TypeError, "data"),
    ("fit_members: no data", lambda: fit_members(data={}), TypeError, "data"),
    ("ensemble_predict: no member", lambda: predict(params={}), ValueError, "members"),
    ("ensemble_predict: ragged", lambda: predict(params=(MEMBERS, X)), ValueError, "members"),
    ("ensemble_predict: string", lambda: predict(params={"w": "a"}), TypeError, "stacked_params['w']"),
    ("ensemble_predict: no example", lambda: predict(x=DATA[:0]), ValueError, "examples"),
    ("ensemble_predict: strings", lambda: predict(x=STRINGS), TypeError, "x"),
    ("ensemble_predict: no model", lambda: predict(None), TypeError, "apply_fn"),
    ("ensemble_predict: no link", lambda: predict(link=None), TypeError, "link"),
    ("ensemble_predict: a mean", lambda: predict(lambda w, x: jnp.sum(x * w)), TypeError, "apply_fn"),
    ("ensemble_predict: fewer", lambda: predict(lambda w, x: x[:1]), TypeError, "apply_fn"),
    ("ensemble_predict: nothing", lambda: predict(lambda w, x: None), TypeError, "apply_fn"),
    ("ensemble_predict: integers", lambda: predict(lambda w, x: x.astype(int)), TypeError, "link"),
    ("ensemble_predict: weights", lambda: predict(weights=[1.0]), ValueError, "weights"),
    ("ensemble_predict: negative", lambda: predict(weights=[-1.0, 2.0]), ValueError, "weights"),
    ("ensemble_predict: none at all", lambda: predict(weights=np.zeros(2)), ValueError, "weights"),
    ("ensemble_predict: NaN", lambda: predict(weights=[NAN, 1.0]), ValueError, "weights"),
    ("ensemble_predict: None", lambda: predict(weights=[None, 1.0]), TypeError, "weights"),
    ("ensemble_predict: complex", lambda: predict(weights=[1j, 1]), TypeError, "weights"),
    ("ensemble_predict: batch_size", lambda: predict(batch_size=0), ValueError, "batch_size"),
    # Shardings.
    ("state_sharding: class", lambda: co.state_sharding(co.adam, X, ON_ONE), TypeError, "tx"),
    ("state_sharding: string", lambda: co.state_sharding(SGD, {"a": "x"}, ON_ONE), TypeError, "params['a']"),
    ("state_sharding: integers", lambda: co.state_sharding(SGD, jnp.arange(3), ON_ONE), TypeError, "parameter"),
    ("state_sharding: none", lambda: co.state_sharding(SGD, X, None), ValueError, "shardings"),
    ("state_sharding: a spec", lambda: co.state_sharding(SGD, X, PartitionSpec()), TypeError, "shardings"),
    ("state_sharding: other tree", lambda: co.state_sharding(SGD, X, {"a": ON_ONE}), ValueError, "shardings"),
    ("state_sharding: rank", lambda: co.state_sharding(SGD, jnp.ones(()), NamedSharding(jax.make_mesh((1,), ("d",)), PartitionSpec("d"))), ValueError, "params"),
    ("state_sharding: a key", lambda: co.state_sharding(SGD, {"k": KEY}, ON_ONE), TypeError, "parameter['k']"),
    ("state_sharding: two meshes", lambda: co.state_sharding(SGD, [X, X], [ON_ONE, SingleDeviceSharding(jax.devices()[1])]), ValueError, "shardings"),
    ("state_sharding: uneven", lambda: co.state_sharding(SGD, {"b": X}, {"b": NamedSharding(jax.make_mesh((2,), ("d",)), PartitionSpec("d"))}), ValueError, "params['b']"),
    # Sweeps.
    ("sweep: no function", lambda: sweep(None), TypeError, "run"),
    ("sweep: string out", lambda: sweep(lambda h: {"a": "x"}), TypeError, "output['a']"),
    ("sweep: key out", lambda: sweep(lambda h: KEY), TypeError, "run"),
    ("sweep: no grid", lambda: sweep(grid=3), TypeError, "grid"),
    ("sweep: empty", lambda: sweep(grid={}), ValueError, "grid"),
    ("sweep: no value", lambda: sweep(grid={"x": []}), ValueError, "grid"),
    ("sweep: string", lambda: sweep(grid={"x": ["a"]}), TypeError, "'x'"),
    ("sweep: None", lambda: sweep(grid={"x": [None]}), TypeError, "'x'"),
    ("sweep: number for a name", lambda: sweep(grid={1: [1.0], "x": [1.0]}), TypeError, "grid"),
    ("sweep: other names", lambda: sweep(grid=[{"x": 1.0}, {"y": 2.0}]), ValueError, "grid"),
    ("sweep: too large a value", lambda: sweep(grid={"x": [1e300]}), ValueError, "'x'"),
    ("sweep: batch_size", lambda: sweep(batch_size=1.5), TypeError, "batch_size"),
    ("sweep: mesh", lambda: sweep(mesh=jax.devices()), TypeError, "mesh"),
    ("sweep: callback", lambda: sweep(callback=3), TypeError, "callback"),
    ("sweep: path", lambda: sweep(path=3), TypeError, "PathLike"),
    ("best_row: no result", lambda: co.best_row(None, np.sum), TypeError, "result"),
    ("best_row: no metric", lambda: co.best_row(TABLE, "loss"), TypeError, "metric"),
    ("best_row: a sum", lambda: co.best_row(TABLE, np.sum), ValueError, "metric"),
    ("best_row: nothing", lambda: co.best_row(TABLE, lambda out: None), TypeError, "metric"),
    ("best_row: complex", lambda: co.best_row(TABLE, lambda out: 1j * out), TypeError, "metric"),
    ("best_row: NaN", lambda: co.best_row(TABLE, lambda out: NAN * out), ValueError, "metric"),
    ("best_row: flag", lambda: co.best_row(TABLE, lambda out: out, largest="yes"), TypeError, "largest"),
    ("write_csv: no result", lambda: co.write_csv(None, "table.csv"), TypeError, "result"),
    ("write_csv: no path", lambda: co.write_csv(TABLE, None), TypeError, "PathLike"),
    ("write_csv: no folder", lambda: co.write_csv(TABLE, "/no/such/table.csv"), FileNotFoundError, "No such file or directory"),
    # Requests for memory, refused before any is taken.
    ("lbfgs: memory", lambda: co.lbfgs(10**9), ValueError, "memory_size"),
    ("scale_by_lbfgs: memory", lambda: co.scale_by_lbfgs(32769), ValueError, "bytes"),
    ("bfgs: memory", lambda: jax.eval_shape(co.bfgs().init, struct(10**6)), ValueError, "lbfgs"),
    ("scale_by_bfgs: memory", lambda: jax.eval_shape(co.scale_by_bfgs().init, struct(10**6)), ValueError, "lbfgs"),
    ("scale_by_newton: memory", lambda: jax.eval_shape(co.scale_by_newton().init, struct(10**6)), ValueError, "newton_cg"),
    ("newton: memory", lambda: jax.eval_shape(co.newton().init, struct(10**6)), ValueError, "newton_cg"),
    ("hessian_matrix: memory", lambda: jax.eval_shape(lambda x: co.hessian_matrix(square, x), struct(10**6)), ValueError, "hvp"),
    ("sweep: memory", lambda: sweep(grid={name: range(1000) for name in "abcd"}), ValueError, "grid"),
    ("snapshots: no int32", lambda: co.snapshots(2**31, 1), ValueError, "num"),
    ("fit: no int32", lambda: fit(steps=10**12), ValueError, "steps"),
    ("fit_members: no int32", lambda: fit_members(num_members=10**12), ValueError, "num_members"),
    # The checks for authors.
    ("check_transformation: class", lambda: check_transformation(co.sgd), AssertionError, "stable_dtypes"),
    ("check_transformation: skip", lambda: check_transformation(SGD, skip={"jit": ""}), ValueError, "skip"),
]


# The id, the call, and the tree that it gives.
RESULTS = [
    # Nothing to train.
    ("minimize: empty tree", lambda: minimize(x0={}, tx=co.lbfgs())[:4], ({}, 0.0, {}, co.Status.CONVERGED)),
    ("minimize: empty array", lambda: minimize(x0=X[:0], tx=co.newton())[:4], (np.zeros(0), 0.0, np.zeros(0), co.Status.CONVERGED)),
    ("minimize: None in a tree", lambda: minimize(x0={"a": X, "b": None}, tx=co.bfgs()).params, {"a": np.zeros(3), "b": None}),
    ("fit: empty tree", lambda: fit(params={}).params, {}),
    ("fit: empty array", lambda: fit(params=X[:0], evaluate=lambda x: x)[::2][0], np.zeros(0)),
    ("fit: None in a tree", lambda: fit(params={"a": X, "b": None}, tx=co.sgd(0.5)).params, {"a": np.zeros(3), "b": None}),
    ("fit: no step", lambda: fit(steps=0)[::2], (np.ones(3), co.FitHistory(*4 * [np.zeros(0)], None))),
    ("fit: empty iterator", lambda: fit(data=iter([])).params, np.ones(3)),
    ("fit_members: no step", lambda: fit_members(steps=0)[::2], (np.ones((2, 3)), co.FitHistory(*4 * [np.zeros((2, 0))], None))),
    ("hessian_matrix: empty tree", lambda: co.hessian_matrix(square, {}), np.zeros((0, 0))),
    ("hvp: empty tree", lambda: co.hvp(square, {}, {}), {}),
    ("nesterov_iterate: empty tree", lambda: co.nesterov_iterate(NESTEROV.init({}), {}), {}),
    ("state_sharding: empty tree", lambda: co.state_sharding(SGD, {}, ON_ONE), optax.EmptyState()),
    # Numbers and NumPy's arrays in place of JAX's.
    ("minimize: number", lambda: minimize(x0=2.0, tx=co.lbfgs()).params, 0.0),
    ("minimize: NumPy", lambda: minimize(x0=np.ones(3), tx=co.lbfgs()).params, np.zeros(3)),
    ("minimize: a huge budget", lambda: minimize(tx=co.lbfgs(), max_evals=10**30).status, co.Status.CONVERGED),
    ("fit: number", lambda: fit(params=1.0, tx=co.sgd(0.5)).params, 0.0),
    ("fit: NumPy", lambda: fit(params=np.ones(3), tx=co.sgd(0.5), data=np.ones((4, 3))).params, np.zeros(3)),
    ("fit: old key", lambda: fit(lambda x, b: jnp.sum(x * b), batch_size=2, key=jax.random.PRNGKey(0)).params, lambda: fit(lambda x, b: jnp.sum(x * b), batch_size=2, key=KEY).params),
    ("fit_members: old key", lambda: fit_members(init=jax.random.normal, key=jax.random.PRNGKey(0)).params, lambda: fit_members(init=jax.random.normal).params),
    ("hvp: number", lambda: co.hvp(square, 2.0, 3.0), 6.0),
    ("hvp: NumPy", lambda: co.hvp(square, np.ones(3), np.ones(3)), 2 * np.ones(3)),
    ("hessian_matrix: number", lambda: co.hessian_matrix(square, 2.0), np.full((1, 1), 2.0)),
    ("ensemble_predict: a huge batch", lambda: predict(batch_size=10**12), DATA),
    ("sweep: a huge batch", lambda: sweep(batch_size=10**12).outputs, np.array([1.0, 4.0])),
    ("step_decay: beyond int32", lambda: co.step_decay(1.0, 10**12)(10**12), 0.5),
    ("cyclic_cosine: beyond int32", lambda: co.cyclic_cosine(1.0, 2)(10**12), 1.0),
    ("snapshots: beyond int32", lambda: update(co.snapshots(2, 10**12)), X),
    ("wolfe: beyond int32", lambda: update(co.lbfgs(search=co.wolfe(max_evals=10**12)), 2 * X).shape, (3,)),
    # NaN and infinity.
    ("minimize: NaN at first", lambda: minimize(lambda x: NAN * square(x), tx=co.lbfgs())[::3][:2], (np.ones(3), co.Status.FAILED)),
    ("minimize: NaN at first, no search", lambda: minimize(lambda x: NAN * square(x))[::3][:2], (np.ones(3), co.Status.FAILED)),
    ("fit: NaN in the data", lambda: (lambda r: (r.params, r.state.nonfinite_step, r.history.loss))(fit(data=NAN * DATA, steps=2)), (np.ones(3), 0, np.array([NAN, NAN]))),
    ("fit: NaN later", lambda: (lambda r: (r.params, r.state.nonfinite_step))(fit(lambda x, b: jnp.sum(jnp.sqrt(2 - x)), tx=co.sgd(4.0), steps=3)), (np.ones(3), 1)),
    ("fit: infinity", lambda: fit(lambda x, b: INF * square(x)).state.nonfinite_step, 0),
    ("fit: NaN under a line search", lambda: fit(data=NAN * DATA, tx=co.lbfgs(), steps=2).params, np.ones(3)),
    ("fit_members: NaN", lambda: fit_members(data=NAN * DATA)[1].nonfinite_step, np.zeros(2)),
    ("polyak_average: NaN", lambda: co.averaged_params(co.polyak_average(0.5).update(jnp.array([NAN, INF, 1.0]), co.polyak_average().init(X), X)[1]), np.array([1.0, 1.0, 1.5])),
    ("hvp: NaN", lambda: co.hvp(lambda x: jnp.sum(x**3), NAN * X, X), NAN * np.ones(3)),
    ("ensemble_predict: a bad member", lambda: predict(params=jnp.array([[2.0], [NAN]]), weights=[1, 0]), 2 * DATA),
    ("ensemble_predict: no snapshot yet", lambda: predict(weights=jnp.zeros(2, bool)), NAN * DATA),
    ("ensemble_predict: negative array", lambda: predict(weights=jnp.array([-1.0, 2.0])), NAN * DATA),
    ("sweep: NaN", lambda: sweep(grid={"x": [NAN, 2.0]}).outputs, np.array([NAN, 4.0])),
    ("best_row: NaN", lambda: co.best_row(TABLE, lambda out: np.array([NAN, 4.0])), 1),
    ("step_decay: infinity", lambda: co.step_decay(0.1, 10)(INF), NAN),
    ("exponential_decay: infinity", lambda: co.exponential_decay(0.1, 1)(INF), 0.0),
    ("inverse_time_decay: infinity", lambda: co.inverse_time_decay(0.1, 1)(INF), 0.0),
    ("sgd: NaN in an array", lambda: update(co.sgd(jnp.float32(NAN))), NAN * np.ones(3)),
    ("sgd: negative array", lambda: update(co.sgd(jnp.float32(-0.5))), 0.5 * np.ones(3)),
    # No parameters are remembered, and so none are missed.
    ("sgd: any tree", lambda: update(co.sgd(0.5), {"a": X}), {"a": -0.5 * np.ones(3)}),
    ("sgd: no gradients", lambda: update(SGD, None), None),
    ("accepted: anything", lambda: co.accepted("state"), True),
    ("snapshots_filled: at first", lambda: co.snapshots_filled(co.snapshots(2, 1).init(X)), np.zeros(2, bool)),
]
# fmt: on


@pytest.mark.parametrize(
    ("call", "error", "name"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_error(call, error, name):
    with pytest.raises(error, match=rf"(?<!\w){re.escape(name)}(?!\w)") as raised:
        call()
    assert raised.type is error


@pytest.mark.filterwarnings("ignore::cs231n_optax.DivergenceWarning")
@pytest.mark.filterwarnings("ignore:the method ended with the status FAILED")
@pytest.mark.parametrize(
    ("call", "expected"), [row[1:] for row in RESULTS], ids=[row[0] for row in RESULTS]
)
def test_result(call, expected):
    expected = expected() if callable(expected) else expected
    actual = call()
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.shape(x) == np.shape(y)
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6)


def test_the_tables_name_every_function():
    functions = {n for n in co.__all__ if not issubclass(type(getattr(co, n)), type)}
    named = {row[0].split(":")[0] for row in (*ERRORS, *RESULTS)}
    assert functions <= named


# What all transformations do alike.


def is_judged(method):
    """Whether it rejects points: its parameters are float32 at least."""
    return "float16" not in method.dtypes


def needs_params(method):
    return is_judged(method) or method.name.startswith(
        ("polyak", "snapshots", "scale_by_newton", "scale_by_lbfgs", "scale_by_bfgs")
    )


def remembers(method):
    return method.name != "sgd"


def methods(*conditions):
    chosen = [method for method in METHODS if all(holds(method) for holds in conditions)]
    return pytest.mark.parametrize("method", chosen, ids=lambda method: method.name)


def make(method):
    return method.factory(**method.hyperparams)


def assert_raises(error, pattern, call):
    """An error, and the same one while JAX traces the call."""
    for attempt in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(error, match=pattern) as raised:
            attempt()
        assert raised.type is error


@methods()
@pytest.mark.parametrize(
    ("leaf", "kind"), [(jnp.arange(3), "int32"), ("x", "str"), (KEY, "key<fry>"), (b"x", "bytes")]
)
def test_parameters_of_another_kind(method, leaf, kind):
    pattern = rf"param\w*\['n'\] is {kind}"
    assert_raises(TypeError, pattern, lambda: make(method).init({"w": X, "n": leaf}))


@methods()
def test_gradients_of_another_kind(method):
    tx = make(method)
    if is_judged(method):
        pattern = r"the gradients have a leaf int32\(3,\) where the parameters .* had float32\(3,\)"
        assert_raises(ValueError, pattern, lambda: update(tx, jnp.arange(3)))
        assert_raises(TypeError, "gradient must be numbers, got 'x'", lambda: update(tx, "x"))
    else:
        for grads, kind in ((jnp.arange(3), "int32"), ("x", "str")):
            pattern = f"every gradient must be a floating or complex array, but .* is {kind}"
            assert_raises(TypeError, pattern, functools.partial(update, tx, grads))


def transformations():
    """Those of the table, and a few whose states differ less."""
    directions = {"backtracking": co.scale_by_lbfgs(4), "adam direction": co.scale_by_adam()}
    searches = {
        name: co.with_line_search(direction, co.backtracking())
        for name, direction in directions.items()
    }
    sizes = {
        "lbfgs of 9 pairs": co.lbfgs(9),
        "scale_by_lbfgs of 9 pairs": co.scale_by_lbfgs(9),
        "5 snapshots": co.snapshots(5, 2),
        "one snapshot": co.snapshots(1, 2),
    }
    return {method.name: make(method) for method in METHODS} | searches | sizes


def signature(state):
    return jax.tree.structure(state), [np.shape(leaf) for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("name", transformations())
def test_foreign_states(name):
    """Each transformation refuses the states of all others, while it is traced."""
    txs = transformations()
    tx = optax.with_extra_args_support(txs[name])
    states = [jax.eval_shape(tx.init, X) for tx in txs.values()]
    own = jax.eval_shape(tx.init, X)
    for state in (*states, None, {}, (1, 2)):
        if signature(state) == signature(own):
            continue
        if name.startswith(("polyak", "snapshots")) and len(state or ()) != 2:
            continue  # a chain of Optax, with a check of its own
        with pytest.raises((TypeError, ValueError), match="needs a state of its own"):
            jax.eval_shape(
                lambda state: tx.update(X, state, X, value=jnp.ones(()), value_fn=square), state
            )


@pytest.mark.parametrize(
    ("name", "state", "named"),
    [
        ("adam", None, "adam"),
        ("adam", (None, None), "scale_by_adam"),
        ("sgd", None, "a constant learning rate"),
        ("momentum_halving", MOMENTUM.init(X), "a scheduled learning rate"),
        ("lbfgs", co.newton().init(X), "a line search"),
        ("newton", co.newton_cg().init(X), "newton"),
        ("newton_cg", co.bfgs().init(X), "a trust region"),
        ("lbfgs of 9 pairs", co.lbfgs(4).init(X), r"memory_size=9 .* of 4"),
        ("5 snapshots", co.snapshots(3, 2).init(X), r"num=5 .* of 3"),
    ],
)
def test_the_error_for_a_foreign_state_names_the_method(name, state, named):
    tx = optax.with_extra_args_support(transformations()[name])
    with pytest.raises((TypeError, ValueError), match=named):
        tx.update(X, state, X, value=1.0, value_fn=square)


@methods(remembers)
@pytest.mark.parametrize("grads", [None, {"a": None}, {"b": X}, [X]])
def test_gradients_of_another_tree(method, grads):
    pattern = "the gradients' tree is not the tree of the parameters.*: got .*, expected .*"
    given = {"params": {"a": X}, "first": {"a": X}}
    assert_raises(ValueError, pattern, lambda: update(make(method), grads, **given))


@methods(remembers)
@pytest.mark.parametrize("shape", [(2,), (1,), (3, 1), ()])
def test_gradients_of_another_shape(method, shape):
    got = re.escape(str(shape))
    pattern = rf"gradients? .*{got}.* where the parameters .*\(3,\)"
    assert_raises(ValueError, pattern, lambda: update(make(method), jnp.ones(shape)))


@methods(needs_params)
def test_no_parameters(method):
    pattern = r" needs the parameters: update\("
    assert_raises(ValueError, pattern, lambda: update(make(method), params=None))


@methods(is_judged)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "needs the loss at params: update(grads, state, params, value=...)"),
        (X, "value must be a real scalar, got float32[3]"),
        (1j, "value must be real numbers, got complex64[]"),
        ("x", "value must be numbers, got 'x'"),
    ],
)
def test_no_value(method, value, message):
    assert_raises(TypeError, re.escape(message), lambda: update(make(method), value=value))


@methods(is_judged)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_parameters(method, dtype):
    pattern = f"needs floating parameters of 32 bits or more, but params is {dtype}: keep them"
    assert_raises(TypeError, pattern, lambda: make(method).init(X.astype(dtype)))


@methods()
@pytest.mark.parametrize("tree", [{}, None, [], {"a": None}])
def test_an_empty_tree_comes_back(method, tree):
    tx = make(method)
    params = tree if tree is not None or not needs_params(method) else {}
    assert jax.eval_shape(lambda: update(tx, params, params, params)) == params


@methods()
def test_empty_arrays_and_numbers(method):
    """Of NumPy or Python, a step is what it is of JAX's arrays, in shape and dtype."""
    tx = make(method)
    for leaf in (np.zeros((0, 3), np.float32), np.ones(3, np.float32), 1.0):
        out = jax.eval_shape(lambda leaf=leaf: update(tx, leaf, leaf, leaf))
        assert (out.shape, out.dtype) == (np.shape(leaf), jnp.float32)


@methods(lambda method: not is_judged(method))
@pytest.mark.parametrize("bad", [NAN, INF])
def test_a_gradient_that_is_not_finite_shows(method, bad):
    """Nothing hides it: where it came from, the update is not finite."""
    step = update(make(method), jnp.array([1.0, bad, 1.0]))
    assert not np.isfinite(step[1])


@methods(is_judged)
def test_what_is_not_finite_is_rejected(method):
    """The anchor stays, and the next trial is finite; at the first point, it is the end."""
    tx = make(method)

    @jax.jit
    def step(grads, state, params, value):
        updates, state = tx.update(grads, state, params, value=value, value_fn=square)
        return params + updates, state

    start = tx.init(X)
    first, state = step(2 * X, start, X, 3.0)
    assert co.accepted(state)
    grads, value = 2 * first, square(first)
    for bad in ((NAN * grads, value), (INF * grads, value), (grads, NAN), (grads, INF)):
        trial, rejected = step(bad[0], state, first, bad[1])
        assert not co.accepted(rejected)
        assert co.status(rejected) == co.Status.RUNNING
        np.testing.assert_array_equal(co.accepted_params(rejected), X)
        assert np.isfinite(trial).all()
        back, failed = step(bad[0], start, X, bad[1])
        assert co.status(failed) == co.Status.FAILED
        np.testing.assert_array_equal(back, X)
