"""What a training will cost before it runs: predictions from a counted step, with their intervals and assumptions."""
