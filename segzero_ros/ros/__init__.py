"""The ROS room: the only one that imports rclpy and message modules."""
