"""What a network costs when its groups have given widths."""

from channelcut.cost.bilinear import BilinearCost, macs_cost, network_costs, params_cost

__all__ = ["BilinearCost", "macs_cost", "network_costs", "params_cost"]
