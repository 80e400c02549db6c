"""The node `perception`: queries in, answers about the camera's frames out."""
