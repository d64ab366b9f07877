"""The rule that decides, written before any number of the full size was seen."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cs231n_optax.experiments.minibatch.experiment import Cells, Result, log_loss

SIGMAS = 2
AUTOENCODER = ("autoencoder", 128)
LARGE_BATCH = 1024
ADAMS = ("adam", "adam-1e-3")


class Difference(NamedTuple):
    """log10 of the loss of a method minus that of the better Adam, over paired seeds.

    Attributes:
      mean, error: and its standard error.
    """

    mean: float
    error: float

    @property
    def wins(self) -> bool:
        """Whether the method is below by two standard errors."""
        return self.mean + SIGMAS * self.error < 0

    @property
    def keeps_up(self) -> bool:
        """Whether it is not above by two standard errors."""
        return self.mean - SIGMAS * self.error <= 0


class Verdict(NamedTuple):
    """Whether L-BFGS in this form transfers to mini-batches, and each part of the rule."""

    holds: bool
    autoencoder: bool
    large_batch: tuple[str, ...]
    kept_up: int
    others: int

    def __str__(self) -> str:
        return (
            "That L-BFGS transfers to mini-batches, as stochastic quasi-Newton, "
            f"**{'holds' if self.holds else 'does not hold'}**. On the autoencoder it "
            f"{'beats' if self.autoencoder else 'does not beat'} the better Adam. With batches of "
            f"{LARGE_BATCH} it beats it on: {', '.join(self.large_batch) or 'none'}. It is not "
            f"beaten on {self.kept_up} of {self.others} others."
        )


def decide(cells: Cells) -> Verdict:
    """Whether `sqn` becomes a public name.

    It is compared with the better of the tuned Adam and Adam at 1e-3, by the log10 of the final
    training loss, seed by seed. It has to

    - win by two standard errors on the autoencoder with batches of 128, where the test loss has to
      be lower by two standard errors, too;
    - win on some workload but the autoencoder with batches of 1024;
    - keep up on at least half of all other workloads and batch sizes: not lose by two standard
      errors.
    """
    found = {cell: difference(results) for cell, results in cells.items()}
    on_test = difference(cells[AUTOENCODER], of="test_loss")
    autoencoder = found[AUTOENCODER].wins and on_test.wins
    large = [cell for cell in found if cell[1] == LARGE_BATCH and cell[0] != AUTOENCODER[0]]
    won = tuple(cell[0] for cell in large if found[cell].wins)
    # The others: all but the autoencoder with 128 and the first that was won with 1024.
    named = {AUTOENCODER, *((won[0], LARGE_BATCH) for _ in won[:1])}
    others = [cell for cell in found if cell not in named]
    kept_up = sum(found[cell].keeps_up for cell in others)
    return Verdict(
        holds=autoencoder and bool(won) and 2 * kept_up >= len(others),
        autoencoder=autoencoder,
        large_batch=won,
        kept_up=kept_up,
        others=len(others),
    )


def difference(
    results: Mapping[str, Result], of: str = "train_loss", method: str = "sqn"
) -> Difference:
    """The difference on one workload with one batch size."""
    losses = {name: log_loss(getattr(result.runs, of)) for name, result in results.items()}
    best = min(ADAMS, key=lambda name: losses[name].mean())
    change = losses[method] - losses[best]
    return Difference(float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change))))
