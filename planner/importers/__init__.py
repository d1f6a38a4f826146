"""Result files of other load tools to operating points: one module per format.

A format is told by what a file contains, never by its name. A file that does not tell its load,
as a concurrency or a rate, is refused, and the key that is missing is named. Only ``formats`` opens
files.
"""
