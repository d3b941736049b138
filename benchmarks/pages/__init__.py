"""The tables of docs/ and README.md that `evidence.py` writes from committed rows."""
