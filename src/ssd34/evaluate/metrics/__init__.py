"""COCO's box metrics, how sure they are, and whether of two detectors one is better."""
