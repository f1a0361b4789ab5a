"""Benchmarks: ``python -m bench.stage1``, ``bench.memory``, ``bench.startup``; each with ``--json OUT`` and ``--tiny``."""
