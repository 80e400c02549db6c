"""Generated table-top scenes with their whole truth."""
