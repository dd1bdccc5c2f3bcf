"""A comparison as a W&B Report: `words` and `panels` of it, `document` joins them, `publish` speaks to the server."""
