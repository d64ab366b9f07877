"""Two host devices in every test process, so that sharding is tested everywhere."""

import jax

collect_ignore_glob = ["data/*", "sharded_run.py"]  # scripts, run by hand or by a test

jax.config.update("jax_num_cpu_devices", 2)
