"""Pure core: units, records, declarations, rank reduction, tariff and ledger. No framework is imported here."""
