"""The parts of `theory.py`: the papers' theory held against networks, one part of docs/theory.md a file."""
