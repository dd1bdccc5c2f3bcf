"""Energy meters: counters, sampled power and models, one file a vendor."""
