"""Track an answer's objects through later frames."""
