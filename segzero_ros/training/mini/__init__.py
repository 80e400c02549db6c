"""A small reasoner trained here from zero: Qwen2.5-VL in small, generated table-tops only."""
