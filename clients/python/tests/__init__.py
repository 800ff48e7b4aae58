"""Tests of the dynakv client: ``python3 -m unittest`` in the folder above."""
