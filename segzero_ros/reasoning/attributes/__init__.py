"""Query by colour, shape, size, position and relation, without a model.

The image is processed in stages: surface fit, components (oversegmentation and merging), regions,
shapes and colours, matching. `scanner` and `language` parse the query, and `prose` writes the
reasoning.
"""
