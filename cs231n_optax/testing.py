"""Checks that a transformation does what users of Optax rely on, for any author to run.

    from cs231n_optax.testing import check_transformation
    check_transformation(my_transformation)

Each check is a function of a `Case`; `CHECKS` lists them, for use as test parameters. They need
chex (``pip install 'cs231n_optax[test]'``).
"""

import contextlib
import functools
import pickle
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64")
NUM_STEPS = 6


class Case(NamedTuple):
    """A transformation and what to check it on.

    Attributes:
      tx: the transformation.
      make: a factory that makes it, ``make(**hyperparams)``.
      hyperparams: its numeric hyperparameters, which a caller may trace; may be empty.
      params: a tree of float32 arrays, the initial point.
      loss: ``loss(params) -> scalar``, differentiable at every dtype and tree.
      dtypes: names of the dtypes that it supports.
      rtol: largest difference between two programs for the same numbers in float32, relative to
        the largest number of a leaf.
    """

    tx: optax.GradientTransformation
    make: Callable[..., optax.GradientTransformation]
    hyperparams: Mapping[str, float]
    params: Any
    loss: Callable[[Any], jax.Array]
    dtypes: tuple[str, ...] = DTYPES
    rtol: float = 1e-5


def check_transformation(
    tx: optax.GradientTransformation,
    *,
    make: Callable[..., optax.GradientTransformation] | None = None,
    hyperparams: Mapping[str, float] | None = None,
    params: Any = None,
    loss: Callable[[Any], jax.Array] | None = None,
    dtypes: tuple[str, ...] = DTYPES,
    rtol: float = 1e-5,
    skip: Mapping[str, str] | None = None,
) -> None:
    """Check that a transformation does what users of Optax rely on.

    - The state and the updates keep their dtypes and trees, and a step is traced once.
    - A scan and a scan in pieces give the same bits. A jitted loop, and each element of a vmap,
      give the same numbers up to rounding.
    - Gradients of zero, 1e-30 and 1e30 give finite updates.
    - No two buffers of a state are the same, so that a step may donate them; a state can be pickled
      and takes the parameters' sharding.
    - The transformation works inside Optax's wrappers, and its hyperparameters may be traced.

    Args:
      tx: the transformation.
      make: its factory, ``make(**hyperparams)``, for the checks of traced hyperparameters.
      hyperparams: the numeric hyperparameters.
      params: a tree of float32 arrays; default: a matrix, a vector and a scalar.
      loss: ``loss(params) -> scalar``; default: a smooth convex function of any tree.
      dtypes: names of the dtypes that the transformation supports.
      rtol: relative tolerance in float32, for results that may differ by rounding.
      skip: names of checks to leave out, each with the reason.

    Raises:
      AssertionError: naming every check that failed, with its message.
      ValueError: if ``skip`` names a check that does not exist.

    Example:
      >>> import jax, optax
      >>> from cs231n_optax.testing import check_transformation
      >>> unit = optax.stateless(lambda g, _: jax.tree.map(lambda g: g / abs(g), g))
      >>> check_transformation(unit, dtypes=("float32",))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      AssertionError: 1 of 19 checks failed
      zero_gradients: ...
    """
    case = Case(
        tx=tx,
        make=make or (lambda: tx),
        hyperparams=hyperparams or {},
        params=default_params() if params is None else params,
        loss=loss or default_loss,
        dtypes=dtypes,
        rtol=rtol,
    )
    skip = skip or {}
    if unknown := skip.keys() - {check.__name__ for check in CHECKS}:
        raise ValueError(f"skip names no check: {sorted(unknown)}")
    failures = []
    for check in CHECKS:
        if check.__name__ in skip:
            continue
        try:
            check(case)
        except Exception as error:
            failures.append(f"{check.__name__}: {type(error).__name__}: {error}")
    if failures:
        raise AssertionError(
            "\n".join([f"{len(failures)} of {len(CHECKS)} checks failed", *failures])
        )


def default_params() -> dict[str, Any]:
    """A nested tree of a (4, 3) matrix, a vector of 3 and a scalar, float32, with no zero in it."""
    wave = np.sin(1 + np.arange(12, dtype=np.float32)).reshape(4, 3)
    return {
        "layer": {"w": jnp.asarray(wave), "b": jnp.asarray(wave[0] / 2)},
        "scale": jnp.float32(0.7),
    }


def default_loss(params: Any) -> jax.Array:
    """Σ over leaves of mean √(1 + |x - 2|²): smooth, convex, real for complex leaves.

    Its gradient is bounded, so that a direction of ascent, too, stays finite.
    """

    def leaf_loss(x: jax.Array) -> jax.Array:
        real, imag = jnp.real(x - 2), jnp.imag(x - 2)
        return jnp.mean(jnp.sqrt(1 + real**2 + imag**2))

    return jnp.asarray(sum((leaf_loss(x) for x in jax.tree.leaves(params)), start=0.0))


# Parts of the checks.


def _cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(dtype), tree)


def _precision(dtype: str) -> Any:
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


_Loss = Callable[[Any], jax.Array]


def _value_and_grad(loss: _Loss, params: Any) -> tuple[jax.Array, Any]:
    value, grads = jax.value_and_grad(loss)(params)
    return value, jax.tree.map(jnp.conj, grads)


def _update(
    tx: optax.GradientTransformation, loss: _Loss, evaluated: tuple, params: Any, state: Any
) -> Any:
    """Updates and state, from a value and gradients, with all that any method may ask for."""
    value, grads = evaluated
    return optax.with_extra_args_support(tx).update(
        grads, state, params, value=value, grad=grads, value_fn=loss
    )


def _step(tx: optax.GradientTransformation, loss: _Loss, params: Any, state: Any) -> Any:
    updates, state = _update(tx, loss, _value_and_grad(loss, params), params, state)
    return optax.apply_updates(params, updates), state


# Compiling takes most of the time, so the checks of a transformation share what they can.


@functools.lru_cache(maxsize=256)
def _compiled_step(tx: optax.GradientTransformation, loss: _Loss) -> Callable[[Any, Any], Any]:
    return jax.jit(functools.partial(_step, tx, loss))


@functools.lru_cache(maxsize=256)
def _compiled_update(
    tx: optax.GradientTransformation, loss: _Loss
) -> Callable[[tuple, Any, Any], Any]:
    return jax.jit(functools.partial(_update, tx, loss))


def _run(case: Case, tx: optax.GradientTransformation, params: Any, steps: int = NUM_STEPS) -> Any:
    """Parameters and state after some steps of an ordinary jitted loop."""
    step = _compiled_step(tx, case.loss)
    state = tx.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def _assert_close(case: Case, actual: Any, expected: Any) -> None:
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = np.max(np.abs(np.asarray(y)), initial=0)
        np.testing.assert_allclose(x, y, rtol=case.rtol, atol=case.rtol * scale)


# The checks.


def stable_dtypes(case: Case) -> None:
    """``update`` returns the tree, shapes and dtypes that ``init`` and the gradients have."""
    for dtype in case.dtypes:
        with _precision(dtype):
            params = jax.eval_shape(lambda dtype=dtype: _cast(case.params, dtype))
            state = jax.eval_shape(case.tx.init, params)
            evaluated = jax.eval_shape(functools.partial(_value_and_grad, case.loss), params)
            updates, new_state = jax.eval_shape(
                functools.partial(_update, case.tx, case.loss), evaluated, params, state
            )
            for what, got, wanted in (
                ("updates", updates, params),
                ("the state", new_state, state),
            ):
                if jax.tree.structure(got) != jax.tree.structure(wanted):
                    raise AssertionError(f"{dtype}: {what} changed its tree: {got} from {wanted}")
                for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
                    same = (x.shape, x.dtype, x.weak_type) == (y.shape, y.dtype, y.weak_type)
                    if not same:
                        raise AssertionError(f"{dtype}: {what} drifted: {x} from {y}")


def one_trace(case: Case) -> None:
    """A jitted step is traced once, however often it runs."""
    traces = 0

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        nonlocal traces
        traces += 1
        return _step(case.tx, case.loss, params, state)

    params, state = case.params, case.tx.init(case.params)
    for _ in range(3):
        params, state = jax.eval_shape(step, params, state)
    if traces != 1:
        raise AssertionError(f"a step was traced {traces} times")


def loops_agree(case: Case) -> None:
    """A scan and a scan in pieces give the same bits, and a jitted loop the same numbers.

    The loop may differ by rounding: XLA compiles a sum inside a scan to other instructions.
    """

    @functools.partial(jax.jit, static_argnums=1)
    def scan(carry: Any, length: int) -> Any:
        return jax.lax.scan(
            lambda carry, _: (_step(case.tx, case.loss, *carry), None), carry, length=length
        )[0]

    start = (case.params, case.tx.init(case.params))
    expected = scan(start, NUM_STEPS)
    half = NUM_STEPS // 2
    chex.assert_trees_all_equal(scan(scan(start, half), half), expected)
    _assert_close(case, _run(case, case.tx, case.params)[0], expected[0])


def lanes_agree(case: Case) -> None:
    """Each lane of a vmap follows the run that it would be alone."""
    starts = [jax.tree.map(lambda x, s=s: x * s, case.params) for s in (1.0, -0.5, 2.0)]
    lanes = jax.tree.map(lambda *xs: jnp.stack(xs), *starts)
    state = jax.vmap(case.tx.init)(lanes)
    step = jax.jit(jax.vmap(functools.partial(_step, case.tx, case.loss)))
    for _ in range(NUM_STEPS):
        lanes, state = step(lanes, state)
    for i, start in enumerate(starts):
        alone, _ = _run(case, case.tx, start)
        _assert_close(case, jax.tree.map(lambda x, i=i: x[i], lanes), alone)


def _finite_updates(case: Case, dtype: str, gradient: Callable[[jax.Array], jax.Array]) -> None:
    params = _cast(case.params, dtype)
    evaluated = (jnp.zeros(()), jax.tree.map(gradient, params))
    update = _compiled_update(case.tx, case.loss)
    state = case.tx.init(params)
    for _ in range(3):
        updates, state = update(evaluated, params, state)
        chex.assert_tree_all_finite(updates)


def zero_gradients(case: Case) -> None:
    """A gradient of zero gives finite updates, in every dtype."""
    for dtype in case.dtypes:
        with _precision(dtype):
            _finite_updates(case, dtype, jnp.zeros_like)


def extreme_gradients(case: Case) -> None:
    """Gradients of 1e30 and 1e-30 give finite updates in float32."""
    for size in (1e30, 1e-30):
        _finite_updates(case, "float32", lambda x, size=size: jnp.full_like(x, size))


def trees(case: Case) -> None:
    """A single scalar without jit; nested, empty and None-bearing trees, compiled."""
    x = jnp.linspace(0.5, 1.5, 4)
    eager = functools.partial(_step, case.tx, case.loss)
    compiled = _compiled_step(case.tx, case.loss)
    nested = [x, {"a": x[:2], "b": None, "c": (x[:1], {"d": x[0]}, [], {})}]
    for step, params in ((eager, x[0]), (eager, {}), (eager, ()), (compiled, nested)):
        moved, state = step(params, case.tx.init(params))
        chex.assert_trees_all_equal_shapes_and_dtypes(moved, params)
        chex.assert_tree_all_finite(moved)
        step(moved, state)


def donation(case: Case) -> None:
    """No two buffers of parameters and state are one, and a step may reuse them all."""
    expected, _ = _run(case, case.tx, case.params)
    step = jax.jit(functools.partial(_step, case.tx, case.loss), donate_argnums=(0, 1))
    for init in (case.tx.init, jax.jit(case.tx.init)):
        params = jax.tree.map(jnp.copy, case.params)
        state = init(params)
        for step_index in range(NUM_STEPS):
            buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state))]
            if len(set(buffers)) < len(buffers):
                raise AssertionError(f"a buffer is shared after {step_index} steps")
            params, state = step(params, state)
        chex.assert_trees_all_equal(params, expected)


def pickling(case: Case) -> None:
    """A run that goes on from a pickled state gives the same bits."""
    step = _compiled_step(case.tx, case.loss)
    saved = _run(case, case.tx, case.params, 2)
    chex.assert_trees_all_equal(step(*pickle.loads(pickle.dumps(saved))), step(*saved))


def map_params(case: Case) -> None:
    """``optax.tree.map_params`` finds the parameter-like trees of the state."""
    _, state = _run(case, case.tx, case.params, 2)
    mapped = optax.tree.map_params(
        case.tx, lambda leaf, param: leaf + 0 * param, state, case.params
    )
    chex.assert_trees_all_equal(mapped, state)


def sharding(case: Case) -> None:
    """On two devices or more: the state takes the parameters' sharding; the numbers stay."""
    devices = jax.devices()[:2]
    if len(devices) < 2:
        return
    mesh = jax.sharding.Mesh(np.array(devices), ("shard",))

    def place(x: jax.Array) -> jax.Array:
        even = x.ndim > 0 and x.shape[0] % 2 == 0
        spec = jax.sharding.PartitionSpec("shard") if even else jax.sharding.PartitionSpec()
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    params = jax.tree.map(place, case.params)
    state = case.tx.init(params)

    def same_sharding(leaf: jax.Array, param: jax.Array) -> None:
        if leaf.shape == param.shape and not leaf.sharding.is_equivalent_to(
            param.sharding, leaf.ndim
        ):
            raise AssertionError(f"sharded {leaf.sharding}, its parameter {param.sharding}")

    step = _compiled_step(case.tx, case.loss)
    for _ in range(NUM_STEPS):
        optax.tree.map_params(case.tx, same_sharding, state, params)
        params, state = step(params, state)
    _assert_close(case, params, _run(case, case.tx, case.params)[0])


def _same_run(case: Case, wrapped: optax.GradientTransformation, repeat: int = 1) -> None:
    expected, _ = _run(case, case.tx, case.params, 4)
    actual, _ = _run(case, wrapped, case.params, 4 * repeat)
    _assert_close(case, actual, expected)


def chain(case: Case) -> None:
    """In ``optax.chain``."""
    _same_run(case, optax.chain(optax.identity(), case.tx, optax.scale(1.0)))


def masked(case: Case) -> None:
    """In ``optax.masked``: all of it, and with part of the tree kept away."""
    _same_run(case, optax.masked(case.tx, True))
    leaves, structure = jax.tree.flatten(case.params)
    mask = jax.tree.unflatten(structure, [i > 0 for i in range(len(leaves))])
    chain = optax.chain(
        optax.masked(case.tx, mask),
        optax.masked(optax.set_to_zero(), jax.tree.map(lambda keep: not keep, mask)),
    )
    moved, _ = _run(case, chain, case.params, 2)
    chex.assert_tree_all_finite(moved)
    chex.assert_trees_all_equal(jax.tree.leaves(moved)[0], leaves[0])


def partition(case: Case) -> None:
    """In ``optax.partition``."""
    _same_run(case, optax.partition({"all": case.tx}, jax.tree.map(lambda _: "all", case.params)))


def multi_steps(case: Case) -> None:
    """In ``optax.MultiSteps``: two half-batches with one gradient are a step."""
    _same_run(case, optax.MultiSteps(case.tx, 2).gradient_transformation(), repeat=2)


def apply_if_finite(case: Case) -> None:
    """In ``optax.apply_if_finite``: a NaN gradient changes neither parameters nor state."""
    wrapped = optax.apply_if_finite(case.tx, max_consecutive_errors=3)
    update = _compiled_update(wrapped, case.loss)
    evaluate = jax.jit(functools.partial(_value_and_grad, case.loss))
    params: Any = case.params
    state: Any = wrapped.init(case.params)
    for _ in range(4):
        updates, state = update(evaluate(params), params, state)
        params = optax.apply_updates(params, updates)
    _assert_close(case, params, _run(case, case.tx, case.params, 4)[0])
    bad = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    updates, skipped = update((jnp.zeros(()), bad), params, state)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    chex.assert_trees_all_equal(skipped.inner_state, state.inner_state)


def reduce_on_plateau(case: Case) -> None:
    """Before ``optax.contrib.reduce_on_plateau``."""
    _same_run(case, optax.chain(case.tx, optax.contrib.reduce_on_plateau(patience=100)))


def traced_hyperparams(case: Case) -> None:
    """Traced hyperparameters, also as lanes of a vmap, do what the same Python numbers do."""
    rounded = {name: float(np.float32(value)) for name, value in case.hyperparams.items()}

    def run(hyperparams: Mapping[str, Any]) -> Any:
        tx = case.make(**hyperparams)
        return jax.lax.scan(
            lambda carry, _: (_step(tx, case.loss, *carry), None),
            (case.params, tx.init(case.params)),
            length=3,
        )[0][0]

    expected = jax.jit(lambda: run(rounded))()
    traced = jax.tree.map(jnp.float32, rounded)
    _assert_close(case, jax.jit(run)(traced), expected)
    lanes = jax.tree.map(lambda x: jnp.stack([x, x / 2]), traced)
    if case.hyperparams:
        first = jax.tree.map(lambda x: x[0], jax.jit(jax.vmap(run))(lanes))
        _assert_close(case, first, expected)


def inject_hyperparams(case: Case) -> None:
    """In ``optax.inject_hyperparams``, its hyperparameters in float32."""
    if not case.hyperparams:
        return
    rounded = {name: float(np.float32(value)) for name, value in case.hyperparams.items()}
    inject = optax.inject_hyperparams(case.make, hyperparam_dtype=np.dtype("float32"))
    expected, _ = _run(case, case.make(**rounded), case.params)
    actual, _ = _run(case, inject(**rounded), case.params)
    _assert_close(case, actual, expected)
    for dtype in set(case.dtypes) & {"bfloat16"}:
        moved, _ = _run(case, inject(**rounded), _cast(case.params, dtype))
        chex.assert_tree_all_finite(moved)


CHECKS: tuple[Callable[[Case], None], ...] = (
    stable_dtypes,
    one_trace,
    loops_agree,
    lanes_agree,
    zero_gradients,
    extreme_gradients,
    trees,
    donation,
    pickling,
    map_params,
    sharding,
    chain,
    masked,
    partition,
    multi_steps,
    apply_if_finite,
    reduce_on_plateau,
    traced_hyperparams,
    inject_hyperparams,
)
