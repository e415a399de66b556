"""`gra doctor`: what could keep a run from working here, found out before anything is paid for it."""
