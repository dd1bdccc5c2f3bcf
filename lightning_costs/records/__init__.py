"""Plain records, units, declarations and sums: pure Python that knows no framework and imports no other room."""
