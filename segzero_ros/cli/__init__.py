"""The console command `segzero`."""
