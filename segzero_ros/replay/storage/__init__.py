"""Storage of bags: MCAP, SQLite and ROS 1 files, each read as messages in order."""
