"""The tests of Ray alone are for where it is in a network of its own."""

from own_network import INSIDE

collect_ignore = [] if INSIDE else ['test_ray_tasks.py']
