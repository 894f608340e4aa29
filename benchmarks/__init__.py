"""Benchmarks: programs a user can run, each one command that prints a table."""
