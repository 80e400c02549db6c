"""Benchmarks for the figures in docs/measurements."""
