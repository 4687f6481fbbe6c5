"""What lies behind AP: curves, classes, sizes, confusions, kinds of errors, calibration."""
