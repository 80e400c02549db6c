"""Checks of the installation, without ROS and without loading a model."""
