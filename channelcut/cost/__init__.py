"""What a network costs when its groups have given widths."""

from channelcut.cost.asked import asked_cost
from channelcut.cost.bilinear import BilinearCost, macs_cost, network_costs, params_cost
from channelcut.cost.deployed import deployed_costs
from channelcut.cost.protocol import WidthCost

__all__ = [
    "BilinearCost",
    "WidthCost",
    "asked_cost",
    "deployed_costs",
    "macs_cost",
    "network_costs",
    "params_cost",
]
