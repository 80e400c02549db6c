"""Reasoners: from a frame and a query to boxes and points."""
