"""Runnable demonstrations of channelcut; nothing in the library imports them."""
