"""What the scripts share. `python scripts/<rule>.py` puts `scripts/` on the path, so no install step is
needed.
"""
