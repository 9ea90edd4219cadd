"""The fault campaign: everything that can happen to sources, process, disk and store, on purpose.

`make torture` runs the whole of it; the tests beside these modules run a short form of each.
"""
