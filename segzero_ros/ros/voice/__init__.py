"""The node `voice`: speech becomes queries."""
