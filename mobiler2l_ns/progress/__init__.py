"""How far a run is, for whoever shows it: its phases and its log."""
