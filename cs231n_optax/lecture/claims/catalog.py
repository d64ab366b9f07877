"""All claims, in the order of the lecture."""

from cs231n_optax.lecture.claims import (
    adagrad,
    adam,
    ensembles,
    lbfgs,
    learning_rate,
    momentum,
    orders,
    problem_a,
    problem_b,
    problem_c,
    rmsprop,
)
from cs231n_optax.lecture.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *problem_a.CLAIMS,
    *problem_b.CLAIMS,
    *problem_c.CLAIMS,
    *momentum.CLAIMS,
    *adagrad.CLAIMS,
    *rmsprop.CLAIMS,
    *adam.CLAIMS,
    *learning_rate.CLAIMS,
    *orders.CLAIMS,
    *lbfgs.CLAIMS,
    *ensembles.CLAIMS,
)
