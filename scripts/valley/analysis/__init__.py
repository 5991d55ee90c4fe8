"""From grades to tables, verdicts and comparisons. Plain values in, tables out; nothing here knows a command
line.
"""
