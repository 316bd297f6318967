"""What a network costs when its groups have given widths."""

from channelcut.cost.bilinear import BilinearCost, macs_cost, network_costs, params_cost
from channelcut.cost.deployed import deployed_costs

__all__ = ["BilinearCost", "deployed_costs", "macs_cost", "network_costs", "params_cost"]
