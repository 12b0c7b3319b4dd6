"""The host loops: each module runs one job from its config to its files, and none imports another.

They live in a package of their own so that ``rowrnn.train`` is the function and not its module.
"""
