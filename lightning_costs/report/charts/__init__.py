"""Charts of a comparison, one file a kind; each draws for the page, notebooks and figures alike."""
