"""How fast every way of running ModernBERT on this machine's CPU is: ``python -m benchmarks``, or ``make bench``."""
