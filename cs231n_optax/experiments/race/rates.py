"""Learning rates by a range test, which every method pays for from its budget."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from cs231n_optax.diagnostics.learning_rate import LearningRateRange, learning_rate_range_test
from cs231n_optax.experiments import catalog, style
from cs231n_optax.experiments import task as tasks
from cs231n_optax.experiments.race.experiment import RateSearch
from cs231n_optax.experiments.race.picture import line_style
from cs231n_optax.experiments.task import Task

NUM_RATES = 40

Curves = Mapping[str, LearningRateRange]
"""What the range test of each method found."""


def search(
    methods: Sequence[str],
    task: Task,
    batch_size: int,
    setting: RateSearch,
    progress: Callable[[int, str], Any],
) -> dict[str, LearningRateRange]:
    """Test every method from one seed, at constant rates."""
    train, _ = task.train_and_test_sets()
    params, key = tasks.first_point(task.network, setting.seed)
    found = {}
    for i, method in enumerate(methods):
        progress(i, method)
        result = jax.jit(
            lambda params, train, key, method=method: learning_rate_range_test(
                tasks.batch_loss(task.network),
                params,
                catalog.METHODS[method],
                train,
                key=key,
                batch_size=batch_size,
                lowest=setting.lowest,
                highest=setting.highest,
                num_rates=setting.rates,
            )
        )(params, train, key)
        found[method] = jax.device_get(result)
    progress(len(methods), "all tested")
    return found


def picture(curves: Curves) -> Figure:
    """The ratio of decrease and predicted decrease over the rate, with the suggested rates."""
    figure = style.new_figure(height=3.6)
    axes = figure.subplots()
    for method, found in curves.items():
        look = line_style(list(catalog.METHODS).index(method))
        color, rate = look.color, float(found.suggested)
        axes.plot(
            found.rates, found.ratios, color=color, linestyle=look.linestyle, linewidth=1, alpha=0.7
        )
        ratio = np.interp(rate, found.rates, found.ratios)
        label = f"{method} {rate:.2g}"
        axes.plot(rate, ratio, color=color, marker=look.marker, linestyle="", label=label)
    axes.axhline(0.5, color="0.5", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_ylim(-1.05, 1.5)
    axes.set_xlabel("learning rate α of one step", fontsize=style.FONT_SIZE)
    axes.set_ylabel("decrease / predicted decrease", fontsize=style.FONT_SIZE)
    style.format_axes(axes)
    axes.legend(
        title="suggested", fontsize=style.FONT_SIZE, title_fontsize=style.FONT_SIZE, frameon=False
    )
    return figure
