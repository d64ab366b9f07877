"""The optimisation half of CS231n's lecture 7, on JAX and Optax."""

# In the order of the lecture.
# isort: off

# 7-1-1 to 7-1-7: first-order methods
from cs231n_optax.first_order.sgd import sgd
from cs231n_optax.first_order.momentum import momentum, scale_by_momentum
from cs231n_optax.first_order.nesterov import nesterov, nesterov_iterate, scale_by_nesterov
from cs231n_optax.first_order.adagrad import adagrad, scale_by_adagrad
from cs231n_optax.first_order.rmsprop import rmsprop, scale_by_rmsprop
from cs231n_optax.first_order.adam import adam, scale_by_adam

# 7-1-2: what is difficult about a loss
from cs231n_optax.diagnostics.conditioning import (
    ExtremeEigenvalues,
    SpectralDensity,
    extreme_eigenvalues,
    smooth_density,
    spectral_density,
)
from cs231n_optax.diagnostics.saddles import PointKind, StationaryPoint, classify_point
from cs231n_optax.diagnostics.noise import GradientNoise, gradient_noise
from cs231n_optax.diagnostics.recording import record_every

# 7-1-8: the learning rate, and its decays; 7-1-11: the cyclic one
from cs231n_optax.diagnostics.learning_rate import LearningRateRange, learning_rate_range_test
from cs231n_optax.schedules import cyclic_cosine, exponential_decay, inverse_time_decay, step_decay

# 7-1-9, 7-1-10: second-order methods
from cs231n_optax.second_order.newton import newton, scale_by_newton
from cs231n_optax.second_order.newton_cg import newton_cg
from cs231n_optax.second_order.hessian import hessian_matrix, hvp
from cs231n_optax.second_order.bfgs import bfgs, scale_by_bfgs
from cs231n_optax.second_order.lbfgs import LbfgsPairs, lbfgs, lbfgs_pairs, scale_by_lbfgs

# 7-1-9, 7-1-10: line searches, and the state of a run
from cs231n_optax.globalization.line_search import with_line_search
from cs231n_optax.globalization.wolfe import wolfe
from cs231n_optax.globalization.backtracking import backtracking
from cs231n_optax.globalization.trial import (
    Status,
    accepted,
    accepted_grad_norm,
    accepted_params,
    status,
)

# 7-1-11: averages over one run, ensembles
from cs231n_optax.averaging.polyak import averaged_params, polyak_average
from cs231n_optax.averaging.snapshots import snapshot_params, snapshots, snapshots_filled
from cs231n_optax.training.ensemble import ensemble_predict, fit_members

# loops over any method
from cs231n_optax.training.fit import (
    DivergenceWarning,
    FitHistory,
    FitProgress,
    FitResult,
    FitState,
    fit,
)
from cs231n_optax.training.minimize import MinimizeProgress, MinimizeResult, minimize
from cs231n_optax.training.minimize_batch import MinimizeBatchProgress, minimize_batch
from cs231n_optax.training.sweep import SweepProgress, SweepResult, best_row, sweep, write_csv
from cs231n_optax.training.progress import progress_bar
from cs231n_optax.training.sharding import state_sharding

__all__ = [
    "DivergenceWarning",
    "ExtremeEigenvalues",
    "FitHistory",
    "FitProgress",
    "FitResult",
    "FitState",
    "GradientNoise",
    "LbfgsPairs",
    "LearningRateRange",
    "MinimizeBatchProgress",
    "MinimizeProgress",
    "MinimizeResult",
    "PointKind",
    "SpectralDensity",
    "StationaryPoint",
    "Status",
    "SweepProgress",
    "SweepResult",
    "accepted",
    "accepted_grad_norm",
    "accepted_params",
    "adagrad",
    "adam",
    "averaged_params",
    "backtracking",
    "best_row",
    "bfgs",
    "classify_point",
    "cyclic_cosine",
    "ensemble_predict",
    "exponential_decay",
    "extreme_eigenvalues",
    "fit",
    "fit_members",
    "gradient_noise",
    "hessian_matrix",
    "hvp",
    "inverse_time_decay",
    "lbfgs",
    "lbfgs_pairs",
    "learning_rate_range_test",
    "minimize",
    "minimize_batch",
    "momentum",
    "nesterov",
    "nesterov_iterate",
    "newton",
    "newton_cg",
    "polyak_average",
    "progress_bar",
    "record_every",
    "rmsprop",
    "scale_by_adagrad",
    "scale_by_adam",
    "scale_by_bfgs",
    "scale_by_lbfgs",
    "scale_by_momentum",
    "scale_by_nesterov",
    "scale_by_newton",
    "scale_by_rmsprop",
    "sgd",
    "smooth_density",
    "snapshot_params",
    "snapshots",
    "snapshots_filled",
    "spectral_density",
    "state_sharding",
    "status",
    "step_decay",
    "sweep",
    "with_line_search",
    "wolfe",
    "write_csv",
]
