"""Trackers, to which a run passes its numbers on while it works: one module for each, chosen by a setting.

A tracker is a class with the methods of `tracker.Tracker`. A section of settings in `settings.py` opens it.
No tracker is imported before a run asks for it.
"""
