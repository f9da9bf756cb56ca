"""Network to raw store. Fetching is not built yet: this package holds no code.

Until it is, get a release by hand (`ninerec show DATASET` names where it is published) and give the
files you hold to `ninerec import DATASET PATH`, which runs the same checks on them.
"""
