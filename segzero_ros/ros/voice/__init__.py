"""The node `voice`: publishes recognised speech as queries."""
