"""The configuration: the YAML file, the environment and the flags; their errors with positions; the resolved model.

`load.load` returns a `model.Config`: immutable and complete, with every default filled in. This file imports nothing:
workers need the model only, and do not import a YAML parser.
"""
