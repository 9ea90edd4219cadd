"""The fault campaign: everything that can happen to sources, process, disk and store, on purpose.

`make torture` runs the whole of it; the tests in each folder run a short form of it.
"""
