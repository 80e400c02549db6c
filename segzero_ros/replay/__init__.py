"""Read, write and replay bags without a ROS installation."""
