"""Conversions between ROS messages and this package's types, without importing ROS.

Messages are read and filled by their fields, so the node (rclpy's classes) and the replay (a bag
reader's classes) share these modules.
"""
