"""Bags without a ROS installation: read, written, and replayed through the pipeline."""
