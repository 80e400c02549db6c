"""Segmenters: from boxes and points to masks.

Each module imports `types` and its own model library, nothing else of the house.
"""
