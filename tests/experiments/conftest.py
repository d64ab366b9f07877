"""A tiny data set, and the check that bad input is refused in one line."""

import numpy as np
import pytest

from cs231n_optax import cli


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The path of a data set of 16 feature vectors to train on and 8 to test."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3))
    y = (x[:, 0] > 0).astype(int)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, x_train=x[:16], y_train=y[:16], x_test=x[16:], y_test=y[16:])
    return str(path)


@pytest.fixture
def assert_refused(tmp_path, capsys):
    """Run a command: one line on stderr says what is wrong, and nothing is written."""

    def check(command, message):
        assert cli.main(command) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("cs231n-optax: ")
        assert message in err
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    return check
