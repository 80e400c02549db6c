"""Segmenters: masks from box and point prompts."""
