"""What a network costs when its groups have given widths."""

from channelcut.cost.bilinear import BilinearCost, macs_cost, params_cost

__all__ = ["BilinearCost", "macs_cost", "params_cost"]
