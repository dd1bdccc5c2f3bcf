"""The run folder: header, journal and table, who writes it and which run it is."""
