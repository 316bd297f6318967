"""Milliseconds of a network on the user's hardware as a cost to plan by."""
