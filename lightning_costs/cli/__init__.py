"""The command line: a command reads arguments, calls what does the work and prints; it computes nothing."""
