"""Ultralytics' networks: their deployed form."""
