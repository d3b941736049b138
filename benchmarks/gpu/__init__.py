"""`run.py gpu`: what can be measured on a GPU alone, in one command of at most 8 minutes."""
