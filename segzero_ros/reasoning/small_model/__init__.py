"""Reasoning by a Qwen2.5-VL of a few million parameters, in NumPy.

torch and transformers take ten seconds to import, which is a hundred times what such a model takes
to answer. The tokens are those of transformers' `generate`.
"""
