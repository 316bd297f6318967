"""Recovery as users call it: adapters, data and stages put together; `recovery.distil` is the training itself."""
