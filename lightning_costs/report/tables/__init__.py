"""Tables of a comparison, for pages, spreadsheets and papers."""
