"""Methods side by side over seeds: runs what is missing, and says what came of it with intervals.

Imports everything. Data: configs and methods come in, finished runs are read, a table and a page go out.
"""
