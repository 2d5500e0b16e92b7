"""Ringmill beside its peers: the same jobs, the same files, the same cores, one after another (`scripts/bench peers`).

Every output is compared with one NumPy program (oracle.py) before a figure counts. See bench/README.md for the method.
"""
