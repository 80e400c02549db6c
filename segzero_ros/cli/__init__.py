"""The command `segzero`: one module per subcommand, imported when it is called."""
