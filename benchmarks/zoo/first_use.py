"""What every task needs and no library of models has: loaded once, in the process that tasks are forked from.

Torch's meta kernels load its compiler at their first use, which takes seconds and is no model's time. Nothing here
starts a thread: a forked process would be without it.
"""

import torch
import torch._dynamo

import benchmarks.zoo.tasks  # noqa: F401
import channelcut as cc

torch.set_num_threads(1)
cc.analyze(torch.nn.Conv2d(3, 4, 1), torch.rand(1, 3, 8, 8))
