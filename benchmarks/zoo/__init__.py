"""Trained networks with known accuracy, on which a compression can be judged before and after."""
