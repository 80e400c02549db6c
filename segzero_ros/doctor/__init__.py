"""What an installation lacks, and what to do about it. Knows nothing of ROS, loads no model."""
