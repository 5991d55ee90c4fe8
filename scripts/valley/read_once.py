"""Imported by the process that comparing workers are forked from, so that all of them find the parsers'
tables read.
"""

from valley import equality

equality.read_tables()
