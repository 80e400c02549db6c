"""Bags without a ROS installation: written and read with rosbags, in any format it knows."""
