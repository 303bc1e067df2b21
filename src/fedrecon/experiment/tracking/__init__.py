"""Where else the numbers of a run go while it works: one module for each tracker, chosen by a setting.

A tracker is a class with the methods of `tracker.Tracker`. What opens one is a section of settings in
`settings.py`. None is imported before a run asks for it.
"""
