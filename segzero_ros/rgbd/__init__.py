"""The newest frames of the camera: colour, depth and intrinsics, undecoded, paired by stamp."""
