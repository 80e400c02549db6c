"""Subscriptions to a camera: colour, depth and intrinsics."""
