"""Reasoners: from a frame and a sentence to boxes and points.

Each module imports `types` and its own model library, nothing else of the house.
"""
