"""Each framework whole behind one door: its calls become the recorder's; nothing here computes a cost."""
