"""Reading colours, shapes, sizes, positions and relations, without a model."""
