"""The figures: `tidy` (the rows that are drawn), `style` (looks), `panels` (axes, marks, notes), `svg`
(saving); `sizes`, `bars`, `runs` and `studies` hold the figures themselves, `html` what pages show of them
without matplotlib.

A figure takes the tables of a study and its tasks, and returns the matplotlib figure and its tidy rows.
"""
