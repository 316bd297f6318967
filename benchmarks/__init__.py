"""Benchmarks: each table of the README is one command here."""
