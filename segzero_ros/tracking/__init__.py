"""Tracking: the objects of an answer in the frames after it."""
