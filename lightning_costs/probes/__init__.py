"""Instruments, one file each: they read the machine, the framework or the vendor, and convert to our units."""
