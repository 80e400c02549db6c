"""Work in shards: one executor, with local processes or with Ray's tasks behind it."""
