"""Evaluation: data sets, metrics, published figures, resumable runs, reports and galleries."""
