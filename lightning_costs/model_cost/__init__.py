"""What a model costs before any training: `lightning_costs.measure(model, batch)`."""
