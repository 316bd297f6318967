"""Depth: residual blocks that go as wholes."""
