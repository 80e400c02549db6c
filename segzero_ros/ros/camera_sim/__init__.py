"""The node `camera_sim`: a camera simulated from photographs, generated scenes or a bag."""
