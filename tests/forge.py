"""Forged studies: from stated truths to answers in memory and grades on disk, and the ways in which data deceive.

Each way takes the cells of an honest study and spoils them as the world would: what then looks like a valley, or like
recovery, is none. `grades` writes what grade.py would have written, so that the whole report can be made of it.
"""

import functools
from pathlib import Path

import numpy
import pandas

from valley import forged, grid, records
from valley.check import load_config
