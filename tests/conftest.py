"""Two host devices in every test process, so that sharding is tested everywhere."""

import jax

collect_ignore_glob = ["data/*"]  # a script that needs PyTorch, run by hand

jax.config.update("jax_num_cpu_devices", 2)
