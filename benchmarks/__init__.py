"""The figures of docs/measurements, measured."""
