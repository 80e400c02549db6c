"""The mini reasoner: a small Qwen2.5-VL, trained from scratch on generated table-tops."""
