"""Two host devices in every test process, so that sharding is tested everywhere."""

import jax

jax.config.update("jax_num_cpu_devices", 2)
