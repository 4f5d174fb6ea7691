"""The seam between hosts and physics: hooks, registry, calculator, and what adapters share."""
