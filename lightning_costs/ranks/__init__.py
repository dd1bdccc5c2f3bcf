"""Several processes: who is where, what each publishes, how rank 0 reduces it. No process group is used."""
