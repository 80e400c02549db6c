"""The figures of the README, measured."""
