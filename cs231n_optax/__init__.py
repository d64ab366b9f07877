"""The optimisation half of CS231n's lecture 7, on JAX and Optax."""

# 7-1-3 ... 7-1-7: first-order methods
from cs231n_optax.first_order.adagrad import adagrad, scale_by_adagrad
from cs231n_optax.first_order.adam import adam, scale_by_adam
from cs231n_optax.first_order.momentum import momentum, scale_by_momentum
from cs231n_optax.first_order.nesterov import nesterov, nesterov_iterate, scale_by_nesterov
from cs231n_optax.first_order.rmsprop import rmsprop, scale_by_rmsprop
from cs231n_optax.first_order.sgd import sgd

# 7-1-8: learning-rate decays; 7-1-11: the cyclic one
from cs231n_optax.schedules import cyclic_cosine, exponential_decay, inverse_time_decay, step_decay

# training with any of them
from cs231n_optax.training.fit import FitHistory, FitResult, FitState, fit

__all__ = [
    "FitHistory",
    "FitResult",
    "FitState",
    "adagrad",
    "adam",
    "cyclic_cosine",
    "exponential_decay",
    "fit",
    "inverse_time_decay",
    "momentum",
    "nesterov",
    "nesterov_iterate",
    "rmsprop",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_momentum",
    "scale_by_nesterov",
    "scale_by_rmsprop",
    "sgd",
    "step_decay",
]
