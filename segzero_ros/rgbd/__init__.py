"""RGB-D frames: the camera's image, depth and camera_info messages, paired by stamp."""
