"""Which data a number was measured on."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from ssd34.data.dataset import Dataset


def fingerprint(dataset: Dataset) -> str:
    """SHA-256, hexadecimal, of a data set's classes, pictures in order, and boxes.

    The pictures count by name, id and size, not by content, so that a large set takes a moment.
    """
    digest = hashlib.sha256(b"ssd34-dataset-1")
    classes = [dataset.labels.names, [int(c) for c in dataset.labels.category_ids]]
    digest.update(json.dumps(classes).encode())
    for sample in dataset.samples:
        head = [sample.file_name, int(sample.image_id), int(sample.width), int(sample.height)]
        digest.update(json.dumps([*head, len(sample.boxes)]).encode())
        for array, kind in (
            (sample.boxes, np.float32),
            (sample.labels, np.int64),
            (sample.areas, np.float64),
            (sample.crowd, np.bool_),
            (sample.difficult, np.bool_),
        ):
            digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()
