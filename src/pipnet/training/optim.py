"""Optimizers and schedules of the learning rate."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import lr_scheduler

from pipnet.training.recipe import OptimConfig


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return Adam or AdamW, fused: one pass over all weights in a step."""
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)


def build_scheduler(
    config: OptimConfig, optimizer: torch.optim.Optimizer, steps: int
) -> lr_scheduler.LRScheduler:
    """Return the schedule of the learning rate, for ``steps`` steps in an epoch."""
    if config.schedule == "step":
        milestones = [epoch * steps for epoch in config.milestones]
        return lr_scheduler.MultiStepLR(optimizer, milestones, 0.1)
    total = steps * config.epochs
    warmup = config.warmup * total
    # OneCycleLR divides by the length of the warm-up minus one step.
    share = 0.0 if abs(warmup - 1) < 1e-6 else float(config.warmup)
    return lr_scheduler.OneCycleLR(optimizer, config.lr, total, pct_start=share)
