"""Measuring answers: data sets, published figures, runs that resume, tables and galleries."""
