"""Where a run is written: the run folder and loggers' rows; no reader of other people's files."""
