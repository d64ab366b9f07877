"""Performance profiles, the area under them, and bootstrap intervals over the seeds.

    ρ(τ) = share of the workloads on which a method takes at most τ times as long as the fastest
    area = ∫ ρ(τ) dτ / (limit - 1) from τ = 1 to the limit: 1 if it is the fastest everywhere

Times are arrays (..., methods, workloads); infinite where the target is not reached, which is never
"at most τ times as long".

Source: E. D. Dolan and J. J. Moré, "Benchmarking optimization software with performance profiles",
Mathematical Programming 91, 2002; G. E. Dahl et al., "Benchmarking neural network training
algorithms" (AlgoPerf), arXiv:2306.07179, for the area and its limit.
"""

from collections.abc import Callable

import numpy as np

LIMIT = 4.0
RESAMPLES = 2000
LEVEL = 0.95


def ratios(times: np.ndarray) -> np.ndarray:
    """Times in units of the fastest method's on the same workload."""
    fastest = times.min(axis=-2, keepdims=True)
    return np.where(np.isfinite(times), times / np.where(np.isfinite(fastest), fastest, 1), np.inf)


def profile(times: np.ndarray, taus: np.ndarray) -> np.ndarray:
    """ρ at each τ, (methods, taus)."""
    return (ratios(times)[..., None] <= taus).mean(axis=-2)


def area(times: np.ndarray, limit: float = LIMIT) -> np.ndarray:
    """The area under each profile, (..., methods): a workload adds limit - ratio, if positive."""
    return np.clip(limit - ratios(times), 0, None).mean(axis=-1) / (limit - 1)


def interval(times: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The ends of the interval of a statistic of the medians over seeds, (2, ...).

    Args:
      times: (methods, workloads, seeds). All methods are resampled alike, since a seed is the same
        start and the same batches for all.
      statistic: of medians (..., methods, workloads).
    """
    _, workloads, seeds = times.shape
    picks = np.random.default_rng(0).integers(seeds, size=(RESAMPLES, 1, workloads, seeds))
    medians = np.median(np.take_along_axis(times[None], picks, axis=-1), axis=-1)
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    # Without interpolation, which has no meaning between a time and infinity.
    return np.quantile(statistic(medians), ends, axis=0, method="inverted_cdf")
