"""What the terminal shows: texts in which no name of a run is obeyed."""
