"""What is known without importing the programs."""

from typing import Final

__all__ = ["GRAPH_VERSION", "STOCK_VERSION"]

STOCK_VERSION: Final = "0.3.36"
GRAPH_VERSION: Final = 2  # raise it when exported.py makes another graph: its exports are kept
