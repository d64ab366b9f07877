"""``python -m cs231n_optax``: the command line."""

import sys

from cs231n_optax.cli import main

sys.exit(main())
