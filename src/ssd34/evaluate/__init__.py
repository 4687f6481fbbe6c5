"""Accuracy: COCO box metrics, how sure they are, what lies behind them, and the report."""
