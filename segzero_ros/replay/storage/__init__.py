"""The files in which bags are stored: MCAP, SQLite and ROS 1, each read as messages in order."""
