"""The tables of docs/ that `python benchmarks/evidence.py` writes from committed rows."""
