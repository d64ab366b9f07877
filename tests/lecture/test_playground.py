"""The playground: primitives and programs under Node, against JAX and the library."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("matplotlib", reason="the colours of the methods need matplotlib")

from lecture.javascript import literal, needs_node, run

import cs231n_optax
from cs231n_optax.experiments.catalog import DECAYS
from cs231n_optax.lecture.playground import page
from cs231n_optax.lecture.playground.programs import DECAY_SLIDERS, LANDSCAPES, PROGRAMS
from cs231n_optax.lecture.playground.translate import UnknownPrimitiveError, translate

pytestmark = [needs_node, pytest.mark.usefixtures("x64")]

STEPS = 200
# Each operation rounds as it is written: XLA neither fuses a product with a sum, nor moves
# constants. Otherwise a zigzag amplifies the last digit to the first in a hundred steps.
AS_WRITTEN = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": "algsimp"}


# Primitives

X = np.array([[0.5, -1.5, 2.0], [3.0, 0.25, -0.75]])
V = np.array([1.0, -2.0, 0.0, np.inf, np.nan, -np.inf, 1e300, -1e-300, 2.5])
POSITIVE = np.array([0.1, 1.0, 7.5])
INTEGERS = np.array([7, -7, 2**31 - 1, -(2**31), 0], np.int32)
LONG = np.arange(24.0).reshape(4, 6) / 7 - 1
BOOLS = np.array([True, False, True])


def spd(n):
    a = np.sin(np.arange(n * n).reshape(n, n) * 1.7)
    return a + a.T


@jax.custom_vjp
def doubled(x):
    return x * 2


doubled.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 2,))

CASES = {
    "add": (lambda x, y: x + y, V, V[::-1]),
    "sub": (lambda x, y: x - y, V, V[::-1]),
    "minus a negative constant": (lambda x: (-x) - (-2.0), X),
    "mul": (lambda x, y: x * y, V, V[::-1]),
    "div": (lambda x, y: x / y, V, V[::-1]),
    "rem": (lax_rem := jax.lax.rem, V[:8], np.full(8, 0.7)),
    "int add": (lambda x: x + np.int32(1), INTEGERS),
    "int mul": (lambda x: x * x, INTEGERS),
    "int neg": (lambda x: -x, INTEGERS),
    "int div": (jax.lax.div, INTEGERS, np.array([2, 2, -1, 3, 0], np.int32)),
    "int rem": (lax_rem, INTEGERS, np.array([2, 2, -5, 3, 0], np.int32)),
    "int floor_divide": (lambda x: x // np.int32(3), INTEGERS),
    "int bits": (lambda x: (x & 6) | (x ^ 5), INTEGERS),
    "compare": (lambda x, y: (x == y, x != y, x < y, x <= y, x > y, x >= y), V, V[::-1]),
    "logic": (lambda x: ~x & (x | True) ^ x, BOOLS),
    "max min": (lambda x, y: (jnp.maximum(x, y), jnp.minimum(x, y)), V, V[::-1]),
    "clamp": (lambda x: jax.lax.clamp(-1.0, x, 1.5), V),
    "abs sign": (lambda x: (jnp.abs(x), jnp.sign(x)), V),
    "round": (lambda x: (jnp.floor(x), jnp.ceil(x), jnp.round(x), jax.lax.round(x)), V),
    "roots": (lambda x: (jnp.sqrt(x), jax.lax.rsqrt(x)), POSITIVE),
    "powers": (lambda x: (x**2, x**3, x**7, x**-2, x**0, x**1.3, jnp.square(x)), POSITIVE),
    "exp log": (lambda x: (jnp.exp(x), jnp.expm1(x), jnp.log(x), jnp.log1p(x)), POSITIVE),
    "trigonometry": (lambda x: (jnp.sin(x), jnp.cos(x), jnp.tanh(x)), V[:3]),
    "is_finite": (jnp.isfinite, V),
    "select_n": (lambda x: jnp.where(x > 0, x, -1.0), V),
    "select_n of three": (lambda x: jax.lax.select_n(np.int32(2), x, -x, 2 * x), X),
    "scalar predicate": (lambda x: jnp.where(x[0, 0] > 0, x, -x), LONG),
    "convert": (lambda x: (x.astype(jnp.int32), (x > 0).astype(float), x.astype(bool)), X * 3),
    "convert out of range": (lambda x: x.astype(jnp.int32), np.array([1e20, -1e20, 2.9, -2.9])),
    "broadcast": (lambda x: x[:, None] * jnp.ones((3, 4)), POSITIVE),
    "reshape transpose": (lambda x: x.T.reshape(3, 8).T, LONG),
    "rev": (lambda x: jnp.flip(x, 1), LONG),
    "slice": (lambda x: (x[1:3, ::2], x[:, 4], x[2, 2]), LONG),
    "split": (lambda x: jnp.split(x, 3, axis=1), LONG),
    "concatenate stack": (lambda x: (jnp.concatenate([x, x[:1]]), jnp.stack([x, -x], 1)), X),
    "unpack": (lambda x: [row * 2 for row in x], X),
    "pad": (lambda x: jax.lax.pad(x, 9.0, ((1, -1, 1), (0, 2, 0))), X),
    "iota": (lambda x: x + jnp.arange(6), LONG),
    "reduce": (lambda x: (x.sum(0), x.sum(), x.max(1), x.min(0), x.prod()), X),
    "reduce several": (
        lambda x: jax.lax.reduce(
            (x, jnp.abs(x)), (0.0, 0.0), lambda a, b: (a[0] + b[0], jnp.maximum(a[1], b[1])), (1,)
        ),
        LONG,
    ),
    "all any": (lambda x: ((x > 0).all(), (x > 0).any(1)), X),
    "argmax": (lambda x: (jnp.argmax(x, 1), jnp.argmin(x, 0), jnp.argmax(V)), X),
    "cumsum": (lambda x: (jnp.cumsum(x, 1), jax.lax.cumsum(x, 0, reverse=True)), LONG),
    "dot": (lambda x: (x @ x.T, x[0] @ x[1], jnp.einsum("ij,ik->ijk", x, x)), X),
    "dynamic_slice": (lambda x, i: jax.lax.dynamic_slice(x, (i, i), (2, 3)), LONG, np.int32(9)),
    "dynamic index of few": (lambda x, i: jax.lax.dynamic_index_in_dim(x, i), X, np.int32(1)),
    "dynamic_update_slice": (
        lambda x, i: jax.lax.dynamic_update_slice(x, X[:, :2], (i, i)),
        LONG,
        np.int32(1),
    ),
    "while": (
        lambda x: jax.lax.while_loop(lambda c: c[0] < 50, lambda c: (c[0] * 2, c[0]), (x, x)),
        np.float64(3),
    ),
    "swap in a loop": (
        lambda x: jax.lax.fori_loop(0, 5, lambda i, c: (c[1], c[0] + i), (x, -x)),
        X,
    ),
    "cond": (lambda x: jax.lax.cond(x[0] > 0, lambda: x * 2, lambda: x[::-1]), POSITIVE),
    "switch": (
        lambda x, i: jax.lax.switch(
            i,
            [lambda: x, lambda: -x, lambda: x * x],
        ),
        LONG,
        np.int32(7),
    ),
    "scan": (lambda x: jax.lax.scan(lambda c, r: (c + r.sum(), c * r), 0.5, x), LONG),
    "scan reversed": (
        lambda x: jax.lax.scan(lambda c, r: (c - r, c[0]), x[0], x, reverse=True),
        LONG,
    ),
    "jit": (lambda x: jax.jit(lambda y: y * 2)(x), X),
    "custom_jvp": (jax.nn.relu, X),
    "custom_vjp": (doubled, X),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(x) * jax.lax.stop_gradient(x)), X),
    "copy": (lambda x: (jnp.copy(x), jnp.logical_xor(x > 0, x < 1)), X),
    "optimization_barrier": (lambda x: jax.lax.optimization_barrier((x, x + 1))[1], X),
    "nothing is computed twice or changed": (lambda x: (x, x + 1, (x + 1) * 2, 5.0), LONG),
}


@pytest.mark.parametrize("name", CASES)
def test_primitive(name):
    """Each primitive agrees with JAX, at infinities and NaN too."""
    function, *arguments = CASES[name]
    got, want = under_node(function, *arguments), jax.tree.leaves(jax.jit(function)(*arguments))
    assert len(got) == len(want)
    for x, y in zip(got, want, strict=True):
        y = np.asarray(y)
        x = np.array(x, y.dtype).reshape(y.shape)
        np.testing.assert_allclose(x, y, rtol=1e-14, atol=1e-300)


def under_node(function, *arguments):
    source = translate("translated", function, *arguments)
    values = [np.asarray(x) for x in arguments]
    flat = [literal(x.ravel().tolist() if x.shape else x.item()) for x in values]
    return run(f"{page._template('runtime.js')}{source}const result=translated({','.join(flat)});")


@pytest.mark.parametrize("n", [2, 3, 6])
def test_eigh(n):
    """Ascending, orthonormal, V Λ Vᵀ = A; for 2 × 2 with the signs of LAPACK."""
    matrix = spd(n)
    vectors, values = (
        np.array(x) for x in under_node(lambda a: tuple(jnp.linalg.eigh(a))[::-1], matrix)
    )
    vectors = vectors.reshape(n, n)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), atol=1e-13)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(n), atol=1e-14)
    np.testing.assert_allclose(vectors * values @ vectors.T, matrix, atol=1e-13)


def test_signs_of_eigh():
    rng = np.random.default_rng(0)
    matrices = [np.diag([2.0, -2.0]), np.diag([-2.0, 2.0]), np.ones((2, 2)), np.zeros((2, 2))]
    matrices += [a + a.T for a in rng.normal(size=(60, 2, 2))]
    matrices += [a + a.T for a in rng.normal(size=(20, 2, 2)) * [[1, 1e-9], [1e-9, 1e-8]]]
    many = np.stack(matrices)
    source = translate("each", lambda a: tuple(jnp.linalg.eigh(a)), many[0])
    calls = literal(many.reshape(-1, 4).tolist())
    got = run(f"{page._template('runtime.js')}{source}const result={calls}.map((a)=>each(a));")
    values, vectors = jnp.linalg.eigh(many)
    np.testing.assert_allclose([x for x, _ in got], values, atol=1e-13)
    np.testing.assert_allclose([x for _, x in got], vectors.reshape(-1, 4), atol=1e-7)


@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (jnp.sort, POSITIVE, "sort"),
        (lambda x: x * 2, np.ones(2, np.float32), "float32"),
        (jnp.linalg.eigvals, X[:, :2], "eig"),
    ],
)
def test_unknown(function, argument, named):
    with pytest.raises(UnknownPrimitiveError, match=named):
        translate("f", function, argument)


# Programs


@functools.cache
def programs():
    return page.programs_source()


def setup(landscape, method, *, decay="constant", **changes):
    """The state of the page, with everything at its default."""
    terrain, program = LANDSCAPES[landscape], PROGRAMS[method]
    numbers = {slider.name: slider.default for slider in program.sliders}
    if "learning_rate" in numbers:
        numbers["learning_rate"] = terrain.rates[method]
    return {
        "landscape": landscape,
        "parameters": [slider.default for slider in terrain.sliders],
        "method": method,
        "numbers": numbers,
        "decay": decay,
        "decayNumbers": [slider.default for slider in DECAY_SLIDERS[decay]],
        "start": list(terrain.start),
        "noise": 0,
        "seed": 1,
    } | changes


def frames(setups):
    """Runs under Node: for each a list of [x, value, accepted, status]."""
    return run(f"""{programs()}
    const result = {json.dumps(setups)}.map((setup) => {{
      const run = startRun(setup);
      while (run.frames.length <= {STEPS} && advance(run));
      return run.frames.map((f) => [f.x, f.value, f.accepted, f.status]);
    }});""")


def compiled_run(method, *, decay="constant"):
    """The library's own loop, one program for all landscapes."""
    program = PROGRAMS[method]
    names = list(LANDSCAPES)

    def loss(which, kappa, x):
        branches = [
            functools.partial(
                lambda f, sliders, x: f(x, *[kappa][: len(sliders)]), t.fun, t.sliders
            )
            for t in LANDSCAPES.values()
        ]
        return jax.lax.switch(which, branches, x)

    def run(which, kappa, start, numbers, decay_numbers):
        fun = functools.partial(loss, which, kappa)
        if "learning_rate" in numbers:
            schedule = DECAYS[decay].schedule(numbers["learning_rate"], **decay_numbers)
            numbers = numbers | {"learning_rate": schedule}
        tx = optax.with_extra_args_support(program.make(numbers))

        def step(carry, _):
            x, state = carry
            value, grads = jax.value_and_grad(fun)(x)
            updates, new = tx.update(grads, state, x, value=value, value_fn=fun)
            return (optax.apply_updates(x, updates), new), (x, value, cs231n_optax.accepted(new))

        return jax.lax.scan(step, (start, tx.init(start)), length=STEPS + 1)[1]

    jitted = jax.jit(run, compiler_options=AS_WRITTEN)

    def of(setup):
        sliders = DECAY_SLIDERS[decay]
        decay_numbers = {s.name: x for s, x in zip(sliders, setup["decayNumbers"], strict=True)}
        kappa = (setup["parameters"] or [1.0])[0]
        which = names.index(setup["landscape"])
        return jitted(which, kappa, np.array(setup["start"]), setup["numbers"], decay_numbers)

    return of


def check(method, setups, *, decay="constant"):
    """The same iterates to 1e-9, and the same rejected trials."""
    reference = compiled_run(method, decay=decay)
    for of, got in zip(setups, frames(setups), strict=True):
        points, values, accepted = map(np.asarray, reference(of))
        n = len(got)
        x = np.array([frame[0] for frame in got])
        np.testing.assert_array_equal([frame[2] for frame in got], accepted[:n])
        np.testing.assert_allclose(x, points[:n], rtol=1e-9, atol=1e-9, err_msg=str(of))
        np.testing.assert_allclose([frame[1] for frame in got], values[:n], rtol=1e-9, atol=1e-9)
        if n <= STEPS:  # the run has ended; the library's stays where it is
            assert got[-1][3] > 0
            np.testing.assert_array_equal(points[n:], points[n:][:1].repeat(STEPS + 1 - n, 0))


QUICK = {"nesterov", "adam", "lbfgs", "newton"}  # the others are compiled in the slow tests


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in PROGRAMS]
)
def test_same_iterates(method):
    """200 steps on every landscape."""
    check(method, [setup(landscape, method) for landscape in LANDSCAPES])


def test_trials_are_rejected():
    """The comparison above has something to say about rejected trials."""
    got = frames([setup("rosenbrock", "lbfgs"), setup("himmelblau", "newton")])
    assert all(sum(not accepted for _, _, accepted, _ in run) > 1 for run in got)
    assert all(run[-1][3] == cs231n_optax.Status.CONVERGED for run in got)


@pytest.mark.parametrize("decay", [name for name in DECAYS if name != "constant"])
def test_decays(decay):
    """The library's schedule inside the method, the page's before it."""
    check("momentum", [setup("rosenbrock", "momentum", decay=decay)], decay=decay)


def test_saddle_start():
    """Exactly on the saddle the first-order methods stay, and Newton leaves as the library does."""
    start = [setup("saddle", method, start=[0.0, 0.0]) for method in ("sgd", "adam")]
    for got in frames(start):
        assert got[-1][0] == [0, 0]
    check("newton", [setup("saddle", "newton", start=[0.0, 0.0])])
    check("newton-cg", [setup("saddle", "newton-cg", start=[0.0, 0.0])])


def test_noise():
    """Noise has mean 0 and the standard deviation of the slider, and depends on the seed only."""
    got = run(f"""{programs()}
    const draw = normals(3), again = normals(3);
    const result = Array.from({{ length: 20000 }}, () => [draw(), again()]);""")
    first, second = np.array(got).T
    np.testing.assert_array_equal(first, second)
    assert abs(first.mean()) < 0.03
    assert abs(first.std() - 1) < 0.03


def test_every_method_and_landscape_is_there():
    """Every method of the lecture, and seven landscapes with minima where they say."""
    lecture = {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "lbfgs", "newton"}
    assert lecture <= set(PROGRAMS)
    assert len(PROGRAMS) >= 11
    assert len(LANDSCAPES) == 7
    for landscape in LANDSCAPES.values():
        for minimizer in landscape.minimizers:
            value, grad = jax.value_and_grad(landscape.fun)(
                jnp.array(minimizer), *(slider.default for slider in landscape.sliders)
            )
            np.testing.assert_allclose(value, landscape.minimum, atol=1e-12)
            np.testing.assert_allclose(grad, 0, atol=1e-12)


# The command


def test_command(tmp_path, capsys):
    """One file that refers to no other, with the folder that it needs."""
    pytest.importorskip("typer", reason="the command line needs typer")
    from cs231n_optax.cli import main

    out = tmp_path / "new" / "page.html"
    assert main(["playground", "--out", str(out)]) == 0
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert str(out) in "".join(capsys.readouterr().out.split())
    text = out.read_text(encoding="utf-8")
    assert len(text.encode()) < 1e6
    for reference in ("http:", "https:", "src=", "@import", "url(", "import("):
        assert reference not in text
    assert not any(mark in text for mark in ("/*CSS*/", "/*PROGRAMS*/", "/*LESSONS*/", "/*PAGE*/"))


def test_command_refuses(tmp_path, capsys):
    pytest.importorskip("typer", reason="the command line needs typer")
    from cs231n_optax.cli import main

    assert main(["playground", "--out", str(tmp_path / "page.txt")]) == 2
    assert ".html" in capsys.readouterr().err
    (tmp_path / "taken.html").mkdir()
    assert main(["playground", "--out", str(tmp_path / "taken.html")]) == 2
    assert "taken.html" in capsys.readouterr().err
