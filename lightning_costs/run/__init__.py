"""A run as it is read: the record, its summary, and work that restarts lost. No framework."""
