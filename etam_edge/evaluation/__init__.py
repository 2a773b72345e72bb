"""Accuracy of one bundle compared with another: metrics, thresholds, sensitivity and the report."""
