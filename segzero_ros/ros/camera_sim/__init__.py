"""The node `camera_sim`: a camera that shows photographs, generated scenes or a bag."""
