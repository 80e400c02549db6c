"""What messages hold, without ROS: read and filled by their fields, whoever made their classes.

rclpy's classes and those of a bag reader have the same fields, so the node and the replay of bags
share these modules.
"""
